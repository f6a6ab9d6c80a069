"""Checkpoints taken apart and put together, as commands and the API ask for it: the file and its recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from optimizer import components
from optimizer.checkpoints.hashes import HashCache
from optimizer.checkpoints.parts import COMPONENTS, Component
from optimizer.checkpoints.writing import Sealed
from optimizer.component_recipes import Action, ComponentRecipe, component_metadata, describe
from optimizer.components import Ema, Held, Metadata

Precision = Literal["fp32", "fp16", "bf16"]
DTYPES: Mapping[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
Sources = Mapping[Component, Sequence[Path]]


class ComponentFiles:
    """Writes files of components.

    hashes: of the sources, which recipes tell. sealed: see `write_streamed`. Every function writes `out`
    whole or not at all, gives back its recipe, and raises InputError as its namesake in
    `optimizer.components`.
    """

    def __init__(self, hashes: HashCache, sealed: Sealed | None = None) -> None:
        self._hashes, self._sealed = hashes, sealed

    def extract(
        self, path: Path, wanted: Sequence[Component], out: Path, dtype: Precision | None
    ) -> ComponentRecipe:
        """Some components of a file alone."""

        def write(metadata: Metadata) -> None:
            components.extract(path, wanted, out, metadata=metadata, dtype=_torch(dtype), sealed=self._sealed)

        return self._written("extract", out, {part: [path] for part in wanted}, write, dtype=dtype)

    def swap(
        self, base: Path, component: Component, source: Path, out: Path, dtype: Precision | None
    ) -> ComponentRecipe:
        """A model with one component of another file."""

        def write(metadata: Metadata) -> None:
            components.swap(
                base, component, source, out, metadata=metadata, dtype=_torch(dtype), sealed=self._sealed
            )

        sources = {part: [source if part == component else base] for part in COMPONENTS}
        return self._written("swap", out, sources, write, dtype=dtype)

    def join(self, sources: Sources, out: Path, dtype: Precision | None) -> ComponentRecipe:
        """A checkpoint of components that come from different files; of several the mean."""

        def write(metadata: Metadata) -> None:
            components.join(sources, out, metadata=metadata, dtype=_torch(dtype), sealed=self._sealed)

        return self._written("join", out, sources, write, dtype=dtype)

    def convert(self, path: Path, out: Path, dtype: Precision) -> ComponentRecipe:
        """A model in another precision."""

        def write(metadata: Metadata) -> None:
            components.convert(path, out, metadata=metadata, dtype=DTYPES[dtype], sealed=self._sealed)

        return self._written("convert", out, _all_from(path), write, dtype=dtype)

    def prune(self, path: Path, out: Path, ema: Ema, dtype: Precision | None) -> ComponentRecipe:
        """A model without EMA copies, or with the copy in the UNet's place."""

        def write(metadata: Metadata) -> None:
            components.prune(path, out, metadata=metadata, ema=ema, dtype=_torch(dtype), sealed=self._sealed)

        return self._written("prune", out, _all_from(path), write, dtype=dtype, ema=ema)

    def uniform(
        self, paths: Sequence[Path], wanted: Sequence[Component], out: Path, dtype: Precision
    ) -> ComponentRecipe:
        """The mean of some components of two or more models; all else is the first model's."""

        def write(metadata: Metadata) -> None:
            components.average(
                paths, wanted, out, metadata=metadata, dtype=DTYPES[dtype], sealed=self._sealed
            )

        sources = {part: paths if part in wanted else paths[:1] for part in COMPONENTS}
        return self._written("uniform", out, sources, write, dtype=dtype)

    def _written(
        self,
        action: Action,
        out: Path,
        sources: Sources,
        write: Callable[[Metadata], None],
        *,
        dtype: Precision | None,
        ema: Ema = "drop",
    ) -> ComponentRecipe:
        named = str(DTYPES[dtype]).removeprefix("torch.") if dtype else None
        recipe = describe(action, out.stem, sources, self._hashes, dtype=named, ema=ema)
        write(component_metadata(recipe))
        return recipe


def held_row(name: str, held: Held) -> dict[str, Any]:
    """What a file holds of one component, as JSON data."""
    return {
        "model": name,
        "component": held.component,
        "tensors": held.tensors,
        "parameters": held.parameters,
        "dtypes": [str(dtype).removeprefix("torch.") for dtype in held.dtypes],
        "fits": list(held.fits),
    }


def _torch(dtype: Precision | None) -> torch.dtype | None:
    return DTYPES[dtype] if dtype else None


def _all_from(path: Path) -> dict[Component, list[Path]]:
    return {held.component: [path] for held in components.components_in(path)}
