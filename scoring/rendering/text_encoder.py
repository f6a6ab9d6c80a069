"""Texts to the states of a CLIP text encoder: weighted, of any length, with textual inversions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoring.errors import InputError
from scoring.prompts import parse_emphasis
from scoring.prompts.chunks import CHUNK_LENGTH, Token, split_into_chunks
from scoring.prompts.embeddings import EmbeddingFolder
from scoring.rendering.components import Components

CHUNK_STATES = CHUNK_LENGTH + 2
"""The states of a chunk: its tokens, and the marks at both ends."""
_CHUNKS_AT_ONCE = 32
_NO_MEAN = 1e-5  # of the size of the states; 1e-3 and more in trained encoders
_EXTRA_NETWORK = re.compile(r"<(?:lora|lyco|hypernet):[^>]*>")

Key = tuple[str, int]
"""A text and the `clip_skip` it is read with: which layer, counted from the last, 1 = the last."""


class TextEncoder:
    """Encodes texts, each once; the results live as long as this object.

    The text encoder is no part of what is searched, so what it gives is a constant: gradients do not flow
    into it, whatever the caller's grad mode. embeddings: a folder of textual inversions that the texts may
    name. Raises InputError where that folder is not there.
    """

    def __init__(self, components: Components, device: torch.device, embeddings: Path | None = None) -> None:
        self._model: Any = components.text_encoder
        self._tokenizer: Any = components.tokenizer
        self._device = device
        self._comma: int = self._tokenizer.convert_tokens_to_ids(",</w>")
        width = self._model.config.hidden_size
        self._embeddings = EmbeddingFolder(embeddings, self._tokenize, width) if embeddings else None
        self._chunks: dict[str, list[list[Token]]] = {}
        self._states: dict[Key, Tensor] = {}

    def check(self, text: str, clip_skip: int) -> None:
        """Raises InputError for a `clip_skip` deeper than the text encoder, for a text that names an
        embedding that can't be used, and for one that wants a LoRA."""
        layers = self._model.config.num_hidden_layers
        if clip_skip > layers:
            raise InputError(
                f"clip_skip {clip_skip}: the text encoder has {layers} layers; take 1 to {layers}"
            )
        self.chunks(text)

    def chunks(self, text: str) -> list[list[Token]]:
        """The tokens of a text, in chunks of 75. Raises InputError as `check` does."""
        if text not in self._chunks:
            if extra := _EXTRA_NETWORK.search(text):
                raise InputError(f"prompt {text[:60]!r} wants {extra[0]}, which can't be used; take it out")
            parts = parse_emphasis(text)
            self._chunks[text] = split_into_chunks(parts, self._tokenize, self._comma, self._embeddings)
        return self._chunks[text]

    def encode(self, wanted: Iterable[Key]) -> None:
        """Encodes what is not known yet. Raises InputError as `check` does, and for weights so large that
        they leave no finite number."""
        missing = [key for key in dict.fromkeys(wanted) if key not in self._states]
        # Leaving inference mode keeps the states usable for a later gradient.
        with torch.inference_mode(False), torch.no_grad():
            for clip_skip in dict.fromkeys(skip for _, skip in missing):
                self._encode([text for text, skip in missing if skip == clip_skip], clip_skip)

    def states(self, text: str, clip_skip: int) -> Tensor:
        """The states of an encoded text: (77 x chunks, width)."""
        return self._states[text, clip_skip]

    def _tokenize(self, text: str) -> list[int]:
        # Not verbose: it would warn of long texts, which are cut into chunks.
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids

    def _encode(self, texts: Sequence[str], clip_skip: int) -> None:
        states = iter(self._forward([chunk for text in texts for chunk in self.chunks(text)], clip_skip))
        for text in texts:
            own = torch.cat([next(states) for _ in self.chunks(text)])
            self._check_finite(text, own)
            self._states[text, clip_skip] = own

    def _check_finite(self, text: str, states: Tensor) -> None:
        weighted = any(_is_weighted(chunk) for chunk in self.chunks(text))
        if weighted and not states.isfinite().all():
            raise InputError(
                f"prompt {text[:60]!r} has weights that leave no finite number; take smaller ones"
            )

    def _forward(self, chunks: Sequence[list[Token]], clip_skip: int) -> list[Tensor]:
        """The states of each chunk, weighted: (77, width)."""
        batches = [chunks[i : i + _CHUNKS_AT_ONCE] for i in range(0, len(chunks), _CHUNKS_AT_ONCE)]
        states = [row for batch in batches for row in self._unweighted(batch, clip_skip)]
        return [
            _emphasised(row, chunk) if _is_weighted(chunk) else row
            for row, chunk in zip(states, chunks, strict=True)
        ]

    def _unweighted(self, chunks: Sequence[list[Token]], clip_skip: int) -> Tensor:
        ids = torch.tensor([self._padded(chunk) for chunk in chunks], device=self._device)
        with self._inserted(chunks):
            output = self._model(ids, attention_mask=self._mask(chunks), output_hidden_states=clip_skip > 1)
        if clip_skip == 1:
            states: Tensor = output.last_hidden_state
            return states
        # transformers kept the layers under `text_model` before version 5.
        inner = getattr(self._model, "text_model", self._model)
        normed: Tensor = inner.final_layer_norm(output.hidden_states[-clip_skip])
        return normed

    def _padded(self, chunk: Sequence[Token]) -> list[int]:
        marks = self._tokenizer
        padding = [marks.pad_token_id] * (CHUNK_LENGTH - len(chunk))
        return [marks.bos_token_id, *(token.id for token in chunk), marks.eos_token_id, *padding]

    def _mask(self, chunks: Sequence[list[Token]]) -> Tensor | None:
        if not getattr(self._model.config, "use_attention_mask", False):
            return None
        lengths = torch.tensor([[len(chunk) + 2] for chunk in chunks])
        return (torch.arange(CHUNK_STATES) < lengths).long().to(self._device)

    @contextmanager
    def _inserted(self, chunks: Sequence[list[Token]]) -> Iterator[None]:
        """The vectors of embeddings take their places in what the model looks up for the ids of `chunks`."""

        def insert(_module: object, _inputs: object, looked_up: Tensor) -> None:
            for row, chunk in enumerate(chunks):
                for column, token in enumerate(chunk, start=1):
                    if token.vector is not None:
                        looked_up[row, column] = token.vector.to(looked_up)

        hook = self._model.get_input_embeddings().register_forward_hook(insert)
        try:
            yield
        finally:
            hook.remove()


def _is_weighted(chunk: Sequence[Token]) -> bool:
    return any(token.weight != 1 for token in chunk)


def _emphasised(states: Tensor, chunk: Sequence[Token]) -> Tensor:
    """States (77, width) times the weights of their tokens, scaled to the mean they had before: the original
    emphasis of A1111."""
    weights = torch.ones(len(states), device=states.device)
    weights[1 : 1 + len(chunk)] = torch.tensor([token.weight for token in chunk])
    plain = states.float()
    loud = plain * weights[:, None]
    mean = plain.mean()
    # An encoder whose last norm was never trained has rounding errors for a mean; they would be blown up.
    if mean.abs() > _NO_MEAN * plain.abs().mean():
        loud = loud * (mean / loud.mean())
    return loud.to(states.dtype)
