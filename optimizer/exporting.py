"""The file of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch

from optimizer.averaging import export_average
from optimizer.checkpoints.parts import Component
from optimizer.checkpoints.writing import Sealed
from optimizer.component_recipes import ComponentRecipe, component_metadata
from optimizer.components import join
from optimizer.merging import export_merge
from optimizer.recipes import AverageRecipe, Parent, Recipe, average_metadata, metadata_of

AnyRecipe = Recipe | AverageRecipe | ComponentRecipe


def export_recipe(recipe: AnyRecipe, paths: Sequence[Path], out: Path, sealed: Sealed | None = None) -> None:
    """Merge or join the recipe's parents from their files, and write the result with its recipe.

    paths: of the parents, in the recipe's order. The same recipe and files give the same file, to the bit.
    sealed: see `write_streamed`. Raises InputError as `export_merge`, `export_average` and `join`.
    """
    dtype: torch.dtype | None = getattr(torch, recipe.dtype) if recipe.dtype else None
    match recipe:
        case Recipe():
            a, b, *others = paths
            parts = _by_component(recipe.components, others)
            metadata = metadata_of(recipe)
            assert dtype is not None, "a merge has one precision"
            export_merge(
                a, b, recipe.weights, out, metadata=metadata, dtype=dtype, parts=parts, sealed=sealed
            )
        case AverageRecipe():
            assert dtype is not None, "a mean has one precision"
            export_average(paths, out, metadata=average_metadata(recipe), dtype=dtype, sealed=sealed)
        case ComponentRecipe():
            parts = _by_component(recipe.parents, paths)
            join(parts, out, metadata=component_metadata(recipe), dtype=dtype, sealed=sealed)


def _by_component(
    parents: Mapping[Component, Sequence[Parent]], paths: Sequence[Path]
) -> dict[Component, list[Path]]:
    left = iter(paths)
    return {component: list(islice(left, len(several))) for component, several in parents.items()}
