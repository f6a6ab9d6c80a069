"""Which checkpoints of a set were merged from which others of it, by what their metadata says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from optimizer.checkpoints.reading import CheckpointFile
from optimizer.component_recipes import read_component_recipe
from optimizer.formats.merge_metadata import ancestry_of
from scoring.errors import InputError


@dataclass(frozen=True)
class Known:
    """One checkpoint of the set."""

    name: str
    sha256: str


def parents_in(file: CheckpointFile, known: Sequence[Known]) -> tuple[int, ...]:
    """The places in `known` of the checkpoints that a file was merged from; of damaged metadata, none."""
    try:
        recipe = read_component_recipe(file.metadata)
        if recipe is not None and recipe.action in ("join", "swap", "uniform"):
            named = [(parent.sha256, parent.name) for parent in recipe.models]
        else:
            merge = ancestry_of(file.metadata, file.path.name).model.merge
            named = [(parent.sha256 or "", parent.name or "") for parent in merge.parents] if merge else []
    except InputError:
        return ()
    found = (_place(sha256, name, known) for sha256, name in named)
    return tuple(dict.fromkeys(place for place in found if place is not None))


def _place(sha256: str, name: str, known: Sequence[Known]) -> int | None:
    for place, model in enumerate(known):
        if sha256 == model.sha256 if sha256 else _stem(name) == _stem(model.name):
            return place
    return None


def _stem(name: str) -> str:
    # A recipe written on Windows has its paths.
    return PurePath(name.replace("\\", "/")).name.removesuffix(".safetensors").removesuffix(".ckpt").lower()
