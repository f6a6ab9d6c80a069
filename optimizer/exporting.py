"""The file of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from optimizer.averaging import export_average
from optimizer.checkpoints.writing import Sealed
from optimizer.merging import export_merge
from optimizer.recipes import AverageRecipe, Recipe, average_metadata, metadata_of


def export_recipe(
    recipe: Recipe | AverageRecipe, paths: Sequence[Path], out: Path, sealed: Sealed | None = None
) -> None:
    """Merge the recipe's parents from their files, in fp32, and write the result with its recipe.

    paths: of the parents, in the recipe's order. The same recipe and files give the same file, to the bit.
    sealed: see `write_streamed`. Raises InputError as `export_merge` and `export_average`.
    """
    dtype: torch.dtype = getattr(torch, recipe.dtype)
    if isinstance(recipe, AverageRecipe):
        export_average(paths, out, metadata=average_metadata(recipe), dtype=dtype, sealed=sealed)
    else:
        a, b = paths
        export_merge(a, b, recipe.weights, out, metadata=metadata_of(recipe), dtype=dtype, sealed=sealed)
