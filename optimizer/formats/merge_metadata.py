"""The merges that a checkpoint's metadata tells of, as a tree: ours, auto-MBW-rt's and A1111's.

A1111 keeps two strings of JSON in a safetensors header: `sd_merge_recipe`, how the file itself was merged,
and `sd_merge_models`, every ancestor by its sha256 with its own recipe (`run_modelmerger` in its
modules/extras.py). Extensions that merge (supermerger, model-mixer) write the same two with fields of their
own. auto-MBW-rt writes `sd_mbwrt_recipe`; our own strings are those of optimizer/recipes.py and
optimizer/component_recipes.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from optimizer.blocks import BLOCKS, SDXL_BLOCKS, BlockWeights
from optimizer.checkpoints import open_checkpoint
from optimizer.component_recipes import KEY as COMPONENTS_KEY
from optimizer.component_recipes import ComponentRecipe, read_component_recipe
from optimizer.formats.text import read_text
from optimizer.recipes import AverageRecipe, Parent, Recipe, read_average, read_recipe
from scoring.data_text import parse_json
from scoring.errors import InputError

# A1111 itself nests as deep as people merge; the deepest known has nine merges.
_DEEPEST = 200
AnyRecipe = TypeVar("AnyRecipe", Recipe, AverageRecipe, ComponentRecipe)
_HASHES = ("primary_model_hash", "secondary_model_hash", "tertiary_model_hash")
_SHOWN = ("interp_method", "multiplier", "custom_name", "type", *_HASHES)


@dataclass(frozen=True)
class Model:
    """A checkpoint in the tree. `merge` is how it was made; None for one that tells of no merge."""

    name: str | None
    sha256: str | None = None
    legacy_hash: str | None = None
    merge: Merge | None = None

    @property
    def title(self) -> str:
        """Its name, else what there is of a hash."""
        return self.name or (f"sha256 {self.sha256[:10]}…" if self.sha256 else "an unnamed model")


@dataclass(frozen=True)
class Merge:
    """How a checkpoint was made of its parents.

    kind: who wrote it (`webui`, `autombw`, `auto-mbw-rt`, …). multiplier: A1111's one number, the share of
    the second parent in a weighted sum. weights: block name -> alpha where every block has its own. details:
    whatever else the recipe says, as it stands there.
    """

    kind: str
    method: str
    parents: tuple[Model, ...]
    multiplier: float | None = None
    weights: BlockWeights | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ancestry:
    """What a file's metadata tells. notices: what stands there and could not be read."""

    model: Model
    notices: tuple[str, ...]


def read_ancestry(path: Path) -> Ancestry:
    """The merges behind a checkpoint, or behind its metadata in a JSON file (as `__metadata__` or plain).

    Raises InputError for a file that is neither, for one that tells of no merge, and for a tree of merges
    that can't be: one that goes in a circle or is deeper than 200.
    """
    metadata = _metadata_of(path)
    found = ancestry_of(metadata, path.name)
    if found.model.merge is None:
        reasons = "; ".join(found.notices) or "its metadata has no recipe of A1111, auto-MBW-rt or autombw"
        raise InputError(f"{path}: tells of no merge: {reasons}")
    return found


def ancestry_of(metadata: Mapping[str, Any], name: str) -> Ancestry:
    """The merges that metadata tells of. Raises InputError for a tree that can't be.

    metadata: of a checkpoint called `name`; strings as safetensors has them, or parsed already.
    """
    notices: list[str] = []
    models = _Models(_json_of(metadata, "sd_merge_models", notices), notices)
    return Ancestry(Model(name, merge=_merge_of(metadata, models, notices)), tuple(notices))


def _merge_of(metadata: Mapping[str, Any], models: _Models, notices: list[str]) -> Merge | None:
    """What the most telling of the strings says; the others say less of the same merge."""
    readers = (_component_merge, _own_merge, _average_merge, _mbwrt_merge)
    found = next((merge for reader in readers if (merge := reader(metadata, models, notices))), None)
    return found or models.merge_of(_json_of(metadata, "sd_merge_recipe", notices), ())


class _Models:
    """A1111's table of ancestors, from which each becomes one Model however often it is a parent."""

    def __init__(self, table: dict[str, Any], notices: list[str]) -> None:
        self._table, self._notices = table, notices
        self._known: dict[str, Model] = {}

    def model(self, sha256: str, below: tuple[str, ...]) -> Model:
        """The ancestor of a hash. below: the hashes from the file down to it."""
        if sha256 in below:
            raise InputError(
                f"the merge metadata goes in a circle: {sha256[:10]}… is its own ancestor; it was made by "
                "hand or damaged, and tells nothing"
            )
        if len(below) >= _DEEPEST:
            raise InputError(f"the merge metadata is nested deeper than {_DEEPEST} merges; it is no real one")
        if sha256 not in self._known:
            entry = self._table.get(sha256)
            told = entry if isinstance(entry, dict) else {}
            self._known[sha256] = Model(
                name=_text(told.get("name")),
                sha256=sha256,
                legacy_hash=_text(told.get("legacy_hash")),
                merge=self.merge_of(told.get("sd_merge_recipe"), (*below, sha256)),
            )
        return self._known[sha256]

    def merge_of(self, recipe: Any, below: tuple[str, ...]) -> Merge | None:
        """The merge of an `sd_merge_recipe`; None where there is none."""
        if not isinstance(recipe, dict) or not recipe:
            return None
        hashes = [recipe[key] for key in _HASHES if isinstance(recipe.get(key), str) and recipe[key]]
        return Merge(
            kind=_text(recipe.get("type")) or "unknown",
            method=_text(recipe.get("interp_method")) or "unknown method",
            parents=tuple(self.model(sha256, below) for sha256 in hashes),
            multiplier=_number(recipe.get("multiplier")),
            details={key: value for key, value in recipe.items() if key not in _SHOWN},
        )

    def parent(self, parent: Parent) -> Model:
        """A parent of one of our own recipes, with what A1111's table knows of it."""
        known = self.model(parent.sha256, ())
        return Model(parent.name, parent.sha256, parent.legacy_hash or known.legacy_hash, known.merge)


def _component_merge(metadata: Mapping[str, Any], models: _Models, notices: list[str]) -> Merge | None:
    recipe = _own_recipe(read_component_recipe, metadata, notices)
    if recipe is None:
        return None
    parents = tuple(models.parent(parent) for parent in recipe.models)
    if recipe.action in ("convert", "prune"):
        # Such a file keeps the strings of the one it was, which tell how that one was made.
        kept = {key: value for key, value in metadata.items() if key != COMPONENTS_KEY}
        parents = (replace(parents[0], merge=_merge_of(kept, models, notices)),)
    parts = [f"{part} of {' + '.join(p.name for p in several)}" for part, several in recipe.parents.items()]
    return Merge(
        kind="autombw",
        method=f"{recipe.action.capitalize()}: {', '.join(parts)}",
        parents=parents,
        details={"dtype": recipe.dtype, "ema": recipe.ema},
    )


def _own_merge(metadata: Mapping[str, Any], models: _Models, notices: list[str]) -> Merge | None:
    recipe = _own_recipe(read_recipe, metadata, notices)
    if recipe is None:
        return None
    return Merge(
        kind="autombw",
        method="Block-weighted sum",
        parents=(models.parent(recipe.a), models.parent(recipe.b)),
        weights=recipe.weights,
        details={"trials": recipe.trials, "scores": recipe.scores, "dtype": recipe.dtype},
    )


def _average_merge(metadata: Mapping[str, Any], models: _Models, notices: list[str]) -> Merge | None:
    recipe = _own_recipe(read_average, metadata, notices)
    if recipe is None:
        return None
    parents = tuple(models.parent(parent) for parent in recipe.parents)
    return Merge("autombw", "Uniform merge", parents, details={"dtype": recipe.dtype})


def _mbwrt_merge(metadata: Mapping[str, Any], _: _Models, notices: list[str]) -> Merge | None:
    recipe = _json_of(metadata, "sd_mbwrt_recipe", notices)
    if not recipe:
        return None
    parents = tuple(Model(str(recipe[key])) for key in ("modelA", "modelB") if recipe.get(key))
    return Merge(
        kind=_text(recipe.get("type")) or "auto-mbw-rt",
        method="Block-weighted sum",
        parents=parents,
        weights=_mbwrt_weights(recipe, notices),
        details={key: recipe[key] for key in ("position_id_fix", "output_mode") if key in recipe},
    )


def _mbwrt_weights(recipe: Mapping[str, Any], notices: list[str]) -> BlockWeights | None:
    """The weights by the sequence that stands beside them; without it nothing says which block is which."""
    weights, names = (_listed(recipe.get(key)) for key in ("mbwrt_weights", "mbwrt_weights_seq"))
    known = {*BLOCKS, *SDXL_BLOCKS}
    values = [_number(weight) for weight in weights]
    if len(values) != len(names) or len(set(names)) != len(names) or not names or not known.issuperset(names):
        notices.append("sd_mbwrt_recipe: mbwrt_weights_seq does not name a block for every weight: not read")
        return None
    if any(value is None for value in values):
        notices.append("sd_mbwrt_recipe: mbwrt_weights holds what is no number: not read")
        return None
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


def _metadata_of(path: Path) -> Mapping[str, Any]:
    if path.suffix.lower() != ".json":
        with open_checkpoint(path) as file:
            return file.metadata
    try:
        data = parse_json(read_text(path))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(
            f"{path}: is no JSON ({error}); give a checkpoint or its metadata as JSON"
        ) from error
    inner: Any = data.get("__metadata__", data) if isinstance(data, dict) else None
    if not isinstance(inner, dict):
        raise InputError(f"{path}: holds no table of metadata; give a checkpoint or its metadata as JSON")
    return inner


def _json_of(metadata: Mapping[str, Any], key: str, notices: list[str]) -> dict[str, Any]:
    """A table from metadata; what is something else becomes a notice and counts as nothing."""
    value = metadata.get(key)
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError as error:
            notices.append(f"{key} is no JSON ({error}): not read")
            return {}
    if value is None or isinstance(value, dict):
        return value or {}
    notices.append(f"{key} is no table but {str(value)[:40]!r}: not read")
    return {}


def _own_recipe(
    read: Callable[[Mapping[str, str]], AnyRecipe | None], metadata: Mapping[str, Any], notices: list[str]
) -> AnyRecipe | None:
    """A recipe of ours; one that is damaged becomes a notice."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    try:
        return read(texts)
    except InputError as error:
        notices.append(str(error))
        return None


def _text(value: Any) -> str | None:
    # What a terminal would obey, and what is no Unicode, is not shown as it stands.
    return "".join(c if c.isprintable() else "?" for c in value) if isinstance(value, str) and value else None


def _number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _listed(value: Any) -> list[str]:
    parts = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else []
    return [text for part in parts if (text := str(part).strip())]
