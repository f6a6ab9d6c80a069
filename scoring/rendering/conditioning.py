"""Prompts to what the UNet attends to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from scoring.errors import InputError
from scoring.rendering.components import Components

_TEXTS_AT_ONCE = 32


class TextEncoder:
    """Encodes prompts, each (text, clip_skip) once; the results live as long as this object.

    The text encoder is no part of what is searched, so what it gives is a constant: gradients do not flow
    into it, whatever the caller's grad mode.
    """

    def __init__(self, components: Components, device: torch.device) -> None:
        self._model: Any = components.text_encoder
        self._tokenizer: Any = components.tokenizer
        self._device = device
        self._cache: dict[tuple[str, int], Tensor] = {}

    def check(self, text: str, clip_skip: int) -> None:
        """Raises InputError for a prompt that does not fit, naming what would be cut, and for a
        `clip_skip` deeper than the text encoder."""
        layers = self._model.config.num_hidden_layers
        if clip_skip > layers:
            raise InputError(
                f"clip_skip {clip_skip}: the text encoder has {layers} layers; take 1 to {layers}"
            )
        if (text, clip_skip) in self._cache:
            return
        room = self._tokenizer.model_max_length
        ids = self._tokenizer(text, truncation=False).input_ids
        if len(ids) > room:
            cut = self._tokenizer.decode(ids[room - 1 : -1])
            raise InputError(
                f"prompt {text[:40]!r}... has {len(ids) - 2} tokens, {room - 2} fit; "
                f"shorten it, this would be cut: {cut!r}"
            )

    def encode(self, wanted: Iterable[tuple[str, int]]) -> None:
        """Encodes those (text, clip_skip) that are not known yet."""
        missing = [key for key in dict.fromkeys(wanted) if key not in self._cache]
        for clip_skip in dict.fromkeys(skip for _, skip in missing):
            texts = [text for text, skip in missing if skip == clip_skip]
            for start in range(0, len(texts), _TEXTS_AT_ONCE):
                some = texts[start : start + _TEXTS_AT_ONCE]
                for text, states in zip(some, self._forward(some, clip_skip), strict=True):
                    self._cache[text, clip_skip] = states

    def conditioning(self, wanted: Sequence[tuple[str, int]]) -> Tensor:
        """The states of encoded texts: (len(wanted), tokens, width)."""
        return torch.stack([self._cache[key] for key in wanted])

    def _forward(self, texts: Sequence[str], clip_skip: int) -> Tensor:
        # Leaving inference mode keeps the cached states usable for a later gradient.
        with torch.inference_mode(False), torch.no_grad():
            inputs = self._tokenizer(
                list(texts),
                padding="max_length",
                max_length=self._tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            mask = inputs.attention_mask.to(self._device) if self._uses_mask else None
            output = self._model(
                inputs.input_ids.to(self._device), attention_mask=mask, output_hidden_states=clip_skip > 1
            )
            if clip_skip == 1:
                states: Tensor = output.last_hidden_state
                return states
            # transformers kept the layers under `text_model` before version 5.
            inner = getattr(self._model, "text_model", self._model)
            normed: Tensor = inner.final_layer_norm(output.hidden_states[-clip_skip])
            return normed

    @property
    def _uses_mask(self) -> bool:
        return bool(getattr(self._model.config, "use_attention_mask", False))
