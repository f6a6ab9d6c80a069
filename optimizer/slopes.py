"""Trials with slopes: d score / d alpha of all blocks at once, by one backward pass.

The pass goes through scorer, VAE and all denoising steps: through the last ones alone it gives other slopes
(docs/search.md). Steps are evaluated again on the way back instead of being kept
(`scoring.rendering.denoiser`), so that it takes the memory of one step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from optimizer.ahead import Stopwatch
from optimizer.blocks import BlockWeights
from optimizer.gradients import BlockGradients
from optimizer.merging import LiveMerge
from optimizer.rendered import Rendered, StageSeconds, judged
from scoring.errors import TrialFailed
from scoring.probes import Probe
from scoring.probes.images import labelled
from scoring.rendering.denoiser import BetweenSteps
from scoring.rendering.images import to_pil
from scoring.rendering.memory import DoesNotFit, is_out_of_memory
from scoring.rendering.renderer import Renderer
from scoring.scorers.base import Scorer

# What float16 gradients are multiplied by, so that they are not rounded to 0 (Micikevicius et al. 2018,
# "Mixed Precision Training", section 3.2), until one overflows; then by less.
_FIRST_SCALE = 2.0**16
_LOWER_BY = 16.0
_LOWEST_SCALE = 2.0**-8


class NoSlopes(Exception):
    """There is no gradient to be had, or no memory for it; the message says why."""


def mean_slopes(shares: Sequence[Mapping[str, float]]) -> BlockWeights:
    """A trial's slopes from the shares of its probes, in the order of the probes."""
    return {block: fmean(share[block] for share in shares) for block in shares[0]}


class Slopes:
    """Evaluations of a live merge whose renders have slopes.

    Where a single image does not fit the memory with its backward pass, that pass evaluates the blocks of
    UNet and VAE one by one again too; `notices` of the renderer says so.
    """

    def __init__(self, renderer: Renderer, scorers: Mapping[str, Scorer], merge: LiveMerge) -> None:
        self._renderer, self._scorers, self._merge = renderer, scorers, merge
        self._loss_scale = _FIRST_SCALE if renderer.components.unet.dtype is torch.float16 else 1.0
        self._done: list[Rendered] = []
        self.forget_seconds()

    def forget_seconds(self) -> None:
        """Measure the stages anew."""
        self._rendering, self._scoring, self._sloping = Stopwatch(), Stopwatch(), Stopwatch()
        self._shared = 0.0

    @property
    def seconds(self) -> StageSeconds:
        """Where the time of the evaluation went."""
        return StageSeconds(
            render=self._rendering.seconds, score=self._scoring.seconds, slope=self._sloping.seconds
        )

    def evaluate(
        self,
        probes: Sequence[Probe],
        rates: Mapping[str, float],
        todo: Sequence[int] | None = None,
        between_steps: BetweenSteps | None = None,
    ) -> Iterator[list[Rendered]]:
        """Render and score what is in `todo` (all unless given) by batches, each with its slopes.

        rates: see `PairEvaluator.slopes`. Raises NoSlopes, and what the renderer and the scorers raise.
        """
        self.forget_seconds()
        rates = self._differentiable(rates)
        missing = set(range(len(probes)) if todo is None else todo)
        while missing:
            try:
                for batch in self._batches(probes, rates, missing, between_steps):
                    missing.difference_update(one.probe for one in batch)
                    yield batch
            except DoesNotFit as too_large:
                if not self._spare_memory():
                    raise NoSlopes(f"slopes do not fit the memory: {too_large}") from too_large

    def _differentiable(self, rates: Mapping[str, float]) -> dict[str, float]:
        kept = {name: rate for name, rate in rates.items() if rate and self._scorers[name].differentiable}
        if not kept:
            raise NoSlopes(f"no scorer that counts is differentiable: {', '.join(rates)}")
        return kept

    def _batches(
        self,
        probes: Sequence[Probe],
        rates: Mapping[str, float],
        missing: set[int],
        between_steps: BetweenSteps | None,
    ) -> Iterator[list[Rendered]]:
        def pause() -> None:
            self._rendering.stop()
            if between_steps is not None:
                between_steps()
            self._rendering.start()

        with self._merge.gradients() as gradients:

            def differentiate(indices: list[int], images: Tensor) -> None:
                self._rendering.stop()
                rows = [row for row, index in enumerate(indices) if index in missing]
                shown = [(indices[row], probes[indices[row]]) for row in rows]
                self._done = self._differentiated(images[rows], shown, rates, gradients)

            batches = self._renderer.render(probes, set(missing), pause, differentiate)
            while self._next(batches):
                yield self._done

    def _next(self, batches: Iterator[tuple[list[int], Tensor]]) -> bool:
        """Whether there was another batch. Compiled code is not differentiated: its parts do not repeat."""
        with torch.enable_grad(), torch.compiler.set_stance("force_eager"), _running(self._rendering):
            return next(batches, None) is not None

    def _differentiated(
        self,
        images: Tensor,
        shown: Sequence[tuple[int, Probe]],
        rates: Mapping[str, float],
        gradients: BlockGradients,
    ) -> list[Rendered]:
        raw: dict[str, list[float]] = {}
        total = images.new_zeros(())
        with _running(self._scoring):
            for name, scorer in self._scorers.items():
                with torch.set_grad_enabled(name in rates):
                    numbers = _numbers(scorer, images, shown)
                raw[name] = numbers.tolist()
                if name in rates:
                    total = total + rates[name] * numbers.sum().to(total)
        with _running(self._sloping):
            slopes = self._backward(total, gradients)
            share = {block: slope / len(shown) for block, slope in slopes.items()}
        pictures = to_pil(images)
        spent = self._rendering.seconds + self._scoring.seconds + self._sloping.seconds
        seconds, self._shared = (spent - self._shared) / len(shown), spent
        return [
            Rendered(
                index,
                labelled(pictures[row], probe),
                {name: of_all[row] for name, of_all in raw.items()},
                seconds,
                share,
            )
            for row, (index, probe) in enumerate(shown)
        ]

    def _backward(self, total: Tensor, gradients: BlockGradients) -> BlockWeights:
        if not total.requires_grad:
            raise NoSlopes("no gradient reaches the images through scorers that say they are differentiable")
        scaled = self._loss_scale != 1.0
        while self._loss_scale >= _LOWEST_SCALE:
            gradients.clear()
            torch.autograd.backward(total * self._loss_scale, retain_graph=scaled)
            slopes = {block: slope / self._loss_scale for block, slope in gradients.slopes().items()}
            if all(map(math.isfinite, slopes.values())):
                return slopes
            if not scaled:
                break
            self._loss_scale /= _LOWER_BY
        raise NoSlopes("the gradient overflows; run in bfloat16 or float32")

    def _spare_memory(self) -> bool:
        """Evaluate again block by block on the way back; False where that is done already."""
        unet, vae = (self._renderer.components.unet, self._renderer.components.vae)
        models: tuple[Any, Any] = (unet, vae)
        if all(model.is_gradient_checkpointing for model in models):
            return False
        for model in models:
            model.enable_gradient_checkpointing()
        self._renderer.notices.append(
            "out of memory: a single image with its backward pass does not fit; from now on the blocks of "
            "UNet and VAE are evaluated again one by one, which takes longer"
        )
        return True


def _numbers(scorer: Scorer, images: Tensor, shown: Sequence[tuple[int, Probe]]) -> Tensor:
    """As `judged`; where there is no memory for it, that is raised, so that a smaller batch is tried."""
    try:
        return judged(scorer, images, shown)
    except TrialFailed as failed:
        cause = failed.__cause__
        if isinstance(cause, RuntimeError) and is_out_of_memory(cause):
            raise cause from None
        raise


@contextmanager
def _running(watch: Stopwatch) -> Iterator[None]:
    watch.start()
    try:
        yield
    finally:
        watch.stop()
