"""Prompts to what the UNet attends to in each of its calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from scoring.prompts import Stage, compose, schedule, text_at
from scoring.rendering.components import Components
from scoring.rendering.passes import Pass
from scoring.rendering.text_encoder import CHUNK_STATES, TextEncoder

Stages = tuple[Stage, ...]


@dataclass(frozen=True)
class Prompts:
    """What is said in the course of a pass.

    negative: what guidance leads away from; None without guidance. parts: what it leads to, each with its
    weight; without guidance there is one, of weight 1.
    """

    negative: Stages | None
    parts: tuple[tuple[float, Stages], ...]


class Form(NamedTuple):
    """What passes have in common that share a batch: each takes `parts` rows of the UNet with `tokens` states
    of text, and one with `negative_tokens` where these are not 0."""

    parts: int
    tokens: int
    negative_tokens: int

    @property
    def rows(self) -> int:
        return self.parts + bool(self.negative_tokens)


def read_prompts(run: Pass) -> Prompts:
    """The prompts of a pass without the one that can't change the image, if there is such a one.

    A1111 knows no AND in a negative prompt: there it is a word.
    """
    negative = schedule(run.negative_prompt, run.calls, run.earlier_calls)
    if run.cfg_scale == 0:
        return Prompts(None, ((1.0, negative),))
    parts = tuple(
        (part.weight, schedule(part.text, run.calls, run.earlier_calls)) for part in compose(run.prompt)
    )
    if run.cfg_scale == 1 and not run.guided and [weight for weight, _ in parts] == [1]:
        return Prompts(None, parts)
    return Prompts(negative, parts)


class Conditioner:
    """Gives batches of passes their conditioning; what was encoded is kept as long as this object lives.

    embeddings: as `TextEncoder` says.
    """

    def __init__(self, components: Components, device: torch.device, embeddings: Path | None = None) -> None:
        self._encoder = TextEncoder(components, device, embeddings)
        self._prompts: dict[Pass, Prompts] = {}

    def check(self, run: Pass) -> None:
        """Raises InputError for what `TextEncoder.check` says of any text of the pass."""
        for stages in self._all_stages(run):
            for stage in stages:
                self._encoder.check(stage.text, run.clip_skip)

    def encode(self, runs: Iterable[Pass]) -> None:
        """Encodes all texts of `runs` that are not known yet. Raises InputError as `TextEncoder.encode`."""
        self._encoder.encode(
            (text, run.clip_skip)
            for run in runs
            for stages in self._all_stages(run)
            for text in self._texts(stages)
        )

    def form(self, run: Pass) -> Form:
        """Which passes this one can share a batch with, as far as its texts are concerned."""
        prompts = self._read(run)
        tokens = max(self._tokens(stages) for _, stages in prompts.parts)
        return Form(len(prompts.parts), tokens, self._tokens(prompts.negative) if prompts.negative else 0)

    def batch(self, runs: Sequence[Pass], dtype: torch.dtype) -> BatchText:
        """What the UNet attends to for encoded passes of one form, in `dtype`."""
        form, prompts = self.form(runs[0]), [self._read(run) for run in runs]
        skips = [run.clip_skip for run in runs]
        parts = [
            _Row(own.parts[i][1], skip, form.tokens)
            for i in range(form.parts)
            for own, skip in zip(prompts, skips, strict=True)
        ]
        negatives = [
            _Row(own.negative, skip, form.negative_tokens)
            for own, skip in zip(prompts, skips, strict=True)
            if own.negative is not None
        ]
        if not negatives:
            return BatchText([parts], None, self._row_states, dtype)
        pull = Pull(
            cfg_scale=torch.tensor([run.cfg_scale for run in runs]),
            weights=torch.tensor([[own.parts[i][0] for own in prompts] for i in range(form.parts)]),
        )
        # As in A1111, texts of different lengths go through the UNet one after the other.
        groups = [negatives + parts] if form.tokens == form.negative_tokens else [negatives, parts]
        return BatchText(groups, pull, self._row_states, dtype)

    def _read(self, run: Pass) -> Prompts:
        if run not in self._prompts:
            self._prompts[run] = read_prompts(run)
        return self._prompts[run]

    def _all_stages(self, run: Pass) -> Iterator[Stages]:
        prompts = self._read(run)
        yield from (stages for _, stages in prompts.parts)
        if prompts.negative is not None:
            yield prompts.negative

    def _texts(self, stages: Stages) -> list[str]:
        """The texts of stages and, where they differ in length, the empty one that fills them up."""
        texts = [stage.text for stage in stages]
        return texts if len({len(self._encoder.chunks(text)) for text in texts}) == 1 else [*texts, ""]

    def _tokens(self, stages: Stages) -> int:
        return CHUNK_STATES * max(len(self._encoder.chunks(stage.text)) for stage in stages)

    def _row_states(self, row: _Row, text: str) -> Tensor:
        """The states (tokens, width) of a text of the row: filled up with empty chunks to the longest text of
        its stages, then with its last state to the longest part."""
        states = self._encoder.states(text, row.clip_skip)
        while len(states) < self._tokens(row.stages):
            states = torch.cat([states, self._encoder.states("", row.clip_skip)])
        return torch.cat([states, states[-1:].expand(row.tokens - len(states), -1)])


@dataclass(frozen=True)
class _Row:
    stages: Stages
    clip_skip: int
    tokens: int


class Pull(NamedTuple):
    """How strongly the parts of N prompts lead away from their negative prompts.

    cfg_scale: (N,). weights: (parts, N), what AND gives each part beside it.
    """

    cfg_scale: Tensor
    weights: Tensor


class BatchText:
    """What the UNet attends to for a batch of N images, call by call. pull: None without guidance."""

    def __init__(
        self,
        groups: Sequence[Sequence[_Row]],
        pull: Pull | None,
        states: Callable[[_Row, str], Tensor],
        dtype: torch.dtype,
    ) -> None:
        self.pull = pull
        self._groups, self._row_states, self._dtype = groups, states, dtype
        self._said: list[list[str]] = []
        self._states: list[Tensor] = []

    def at(self, call: int) -> list[Tensor]:
        """The texts (rows, tokens, width) that the UNet has to see in its `call`-th call, counted from 0.

        One after the other; together their rows are N of the negative prompts if there is guidance, then N of
        each part.
        """
        said = [[text_at(row.stages, call) for row in rows] for rows in self._groups]
        if said != self._said:
            self._said = said
            self._states = [
                torch.stack([self._row_states(row, text) for row, text in zip(rows, texts, strict=True)])
                for rows, texts in zip(self._groups, said, strict=True)
            ]
            self._states = [states.to(self._dtype) for states in self._states]
        return self._states
