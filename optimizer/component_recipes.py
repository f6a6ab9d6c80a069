"""The recipe of a checkpoint that was put together from components: typed data first, then its strings.

`autombw_components` carries it whole. A1111 reads `sd_merge_recipe` and `sd_merge_models`: the model of the
UNet is its primary, those of text encoder and VAE stand after it, and a VAE from elsewhere is its
`bake_in_vae`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optimizer.checkpoints.bare import open_component
from optimizer.checkpoints.hashes import HashCache
from optimizer.checkpoints.inspection import find_architecture, legacy_hash_of
from optimizer.checkpoints.parts import COMPONENTS, Component, component_of
from optimizer.checkpoints.prediction import find_prediction
from optimizer.checkpoints.writing import modelspec
from optimizer.recipes import Parent
from scoring.errors import InputError

KEY = "autombw_components"
Action = Literal["extract", "swap", "join", "uniform", "convert", "prune"]


class ComponentRecipe(BaseModel):
    """What was put together, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Name of the file that was written, without a suffix.")
    action: Action
    parents: dict[Component, list[Parent]] = Field(
        description="Component -> where it comes from; of several files it is the mean."
    )
    dtype: str | None = Field(default=None, description="Of all weights; null: as each file had them.")
    ema: Literal["drop", "use"] = Field(default="drop", description="use: the UNet is the EMA copy.")
    architecture: str | None = Field(default=None, description="Null for a file without a UNet.")
    prediction_type: str | None = None

    @property
    def files(self) -> list[Parent]:
        """The parent of every file that is read for a component, in the order of the components."""
        return [parent for several in self.parents.values() for parent in several]

    @property
    def models(self) -> list[Parent]:
        """Every parent once: the UNet's, then the text encoder's, then the VAE's."""
        found: dict[str, Parent] = {}
        for component in COMPONENTS:
            for parent in self.parents.get(component, []):
                found.setdefault(parent.sha256, parent)
        return list(found.values())


def describe(
    action: Action,
    name: str,
    sources: Mapping[Component, Sequence[Path]],
    hashes: HashCache,
    *,
    dtype: str | None = None,
    ema: Literal["drop", "use"] = "drop",
) -> ComponentRecipe:
    """The recipe of a file that is about to be written from these sources; each is hashed.

    dtype: torch's name of a precision; None: each as it is. Raises InputError for a source that is no
    checkpoint and no component.
    """
    first = next(iter(sources.get("unet", ())), None)
    architecture, prediction_type = _kind(first) if first else (None, None)
    return ComponentRecipe(
        name=name,
        action=action,
        parents=parents_at(sources, hashes),
        dtype=dtype,
        ema=ema,
        architecture=architecture,
        prediction_type=prediction_type,
    )


def parents_at(
    sources: Mapping[Component, Sequence[Path]], hashes: HashCache
) -> dict[Component, list[Parent]]:
    """The files of components as a recipe names them; each is hashed. Raises InputError as `describe`."""
    paths = dict.fromkeys(path for several in sources.values() for path in several)
    parents = {path: _parent(path, hashes) for path in paths}
    return {part: [parents[path] for path in several] for part, several in sources.items()}


def _parent(path: Path, hashes: HashCache) -> Parent:
    with open_component(path) as file:
        metadata = dict(file.metadata)
    return Parent(
        name=path.name, sha256=hashes.sha256(path), legacy_hash=legacy_hash_of(path), metadata=metadata
    )


def _kind(path: Path) -> tuple[str | None, str | None]:
    """Architecture and prediction type of a UNet's file; nothing where it has no UNet."""
    with open_component(path) as file:
        if not any(component_of(key) == "unet" for key in file.entries):
            return None, None
        architecture = find_architecture(file)
        prediction = find_prediction(architecture, path.stem, file.metadata, file.entries.keys())
        return architecture, prediction.type


def component_metadata(recipe: ComponentRecipe) -> dict[str, str]:
    """The safetensors metadata of the file; every value is a string.

    A file that was only converted or pruned keeps the metadata that it had.
    """
    without = {"parents": {"__all__": {"__all__": {"metadata"}}}}
    own = {"format": "pt", KEY: recipe.model_dump_json(exclude=without)}
    if recipe.action in ("convert", "prune"):
        return {**recipe.models[0].metadata, **_about(recipe), **own}
    found = {**own, **_about(recipe), "sd_merge_models": json.dumps(_ancestors(recipe.models))}
    if recipe.action != "extract":
        found["sd_merge_recipe"] = json.dumps(_a1111_recipe(recipe))
        found["modelspec.merged_from"] = ", ".join(parent.name for parent in recipe.models)
    return found


def read_component_recipe(metadata: Mapping[str, str]) -> ComponentRecipe | None:
    """The recipe from a file's metadata; None where there is none. Raises InputError when it is damaged."""
    text = metadata.get(KEY)
    if not text:
        return None
    try:
        return ComponentRecipe.model_validate_json(text)
    except ValidationError as error:
        raise InputError(
            f"{KEY} is damaged or of a newer version ({error.errors()[0]['msg']}); take the file as written"
        ) from error


def _about(recipe: ComponentRecipe) -> dict[str, str]:
    if recipe.architecture is None or recipe.prediction_type is None:
        return {}
    return {
        "prediction_type": recipe.prediction_type,
        **modelspec(recipe.architecture, recipe.prediction_type, recipe.name),
    }


def _a1111_recipe(recipe: ComponentRecipe) -> dict[str, Any]:
    unets, vaes = recipe.parents.get("unet", []), recipe.parents.get("vae", [])
    # A1111 has three places; all parents stand in `sd_merge_models`.
    primary, secondary, tertiary = [*(parent.sha256 for parent in recipe.models), None, None, None][:3]
    averaged = [part for part in COMPONENTS if len(recipe.parents.get(part, [])) > 1]
    count = max((len(recipe.parents[part]) for part in averaged), default=1)
    other_vae = len(vaes) == 1 and (not unets or vaes[0].sha256 != unets[0].sha256)
    return {
        "type": f"autombw-{recipe.action}",
        "primary_model_hash": primary,
        "secondary_model_hash": secondary,
        "tertiary_model_hash": tertiary,
        "interp_method": f"Uniform merge of {count} ({', '.join(averaged)})"
        if averaged
        else "No interpolation",
        "multiplier": 1 / count,
        "save_as_half": recipe.dtype == "float16",
        "custom_name": recipe.name,
        "config_source": 0,
        "bake_in_vae": vaes[0].name if other_vae else "None",
        "discard_weights": "",
        "is_inpainting": False,
        "is_instruct_pix2pix": False,
    }


def _ancestors(parents: list[Parent]) -> dict[str, Any]:
    """Every ancestor by its hash, as A1111 nests them."""
    found: dict[str, Any] = {}
    for parent in parents:
        older = _table(parent.metadata.get("sd_merge_models"))
        told = _table(parent.metadata.get("sd_merge_recipe"))
        entry = {"name": parent.name, "legacy_hash": parent.legacy_hash, "sd_merge_recipe": told or None}
        found |= {**older, parent.sha256: entry}
    return found


def _table(text: str | None) -> dict[str, Any]:
    # A parent's metadata may hold anything; what is no JSON table tells of no merge.
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
