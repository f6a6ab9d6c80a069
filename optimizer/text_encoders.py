"""The text encoders that one merge may be rendered with: each loaded once, each text encoded once by each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from optimizer.checkpoints.architectures import Architecture
from optimizer.checkpoints.loading import load_component
from scoring.errors import InputError
from scoring.rendering.components import Components
from scoring.rendering.conditioning import Conditioner


def load_text_encoder(
    paths: Sequence[Path], architecture: Architecture, *, device: torch.device | str, dtype: torch.dtype
) -> nn.Module:
    """The text encoder of a file or, of several, the mean of theirs: summed in fp32, rounded once to `dtype`.

    Raises InputError for a file without one, and for one of another architecture.
    """
    if len(paths) == 1:
        return load_component(paths[0], "text_encoder", architecture, device=device, dtype=dtype)
    first, *others = paths
    mean = load_component(first, "text_encoder", architecture, device="cpu", dtype=torch.float32)
    with torch.no_grad():
        for path in others:
            other = load_component(path, "text_encoder", architecture, device="cpu", dtype=torch.float32)
            for total, parameter in zip(mean.parameters(), other.parameters(), strict=True):
                total.add_(parameter)
        for total in mean.parameters():
            total.div_(len(paths))
    return mean.to(device, dtype)


class TextEncoders:
    """Conditioners by option. A switch costs loading and encoding the first time, and nothing after it.

    sources: option -> the file of its text encoder, or those whose mean it is. The device holds all that were
    asked for.
    """

    def __init__(
        self,
        sources: Mapping[str, Sequence[Path]],
        components: Components,
        architecture: Architecture,
        device: torch.device | str,
        embeddings: Path | None,
    ) -> None:
        self._sources, self._components, self._architecture = sources, components, architecture
        self._device, self._embeddings = torch.device(device), embeddings
        self._dtype: torch.dtype = components.unet.dtype
        self._made: dict[str, Conditioner] = {}

    def conditioner(self, option: str) -> Conditioner:
        """What encodes texts with this option. Raises InputError for an unknown one."""
        if option not in self._sources:
            known = ", ".join(self._sources) or "none"
            raise InputError(f"unknown text encoder {option!r}; this search has {known}")
        if option not in self._made:
            paths = self._sources[option]
            module: Any = load_text_encoder(paths, self._architecture, device=self._device, dtype=self._dtype)
            with_it = replace(self._components, text_encoder=module)
            self._made[option] = Conditioner(with_it, self._device, self._embeddings)
        return self._made[option]
