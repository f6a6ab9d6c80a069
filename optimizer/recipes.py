"""The recipe of a merge: typed data first, then the metadata strings that the field reads.

A1111's `sd_merge_recipe` and `sd_merge_models` (nested through merges), auto-MBW-rt's
`sd_mbwrt_recipe`, and our own `autombw_recipe`, which carries every block weight by its name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optimizer.blocks import RECIPE_ORDER, BlockWeights
from optimizer.checkpoints.parts import Component
from optimizer.checkpoints.writing import modelspec
from optimizer.elements import elements_in
from scoring.errors import InputError


class Parent(BaseModel):
    """One of the two checkpoints that went in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="File name in the models folder.")
    sha256: str
    legacy_hash: str | None = Field(default=None, description="A1111's 8-digit hash of old.")
    metadata: dict[str, str] = Field(default_factory=dict, description="The file's own metadata strings.")


class Recipe(BaseModel):
    """Everything that is needed to make the merged file again, and what it was worth."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Name of the merged checkpoint, without a suffix.")
    a: Parent
    b: Parent
    architecture: str
    prediction_type: str
    weights: BlockWeights = Field(
        description="Block or element (as IN04/attn2) -> alpha; merged = (1 - alpha) A + alpha B."
    )
    dtype: str = "float16"
    trials: int | None = Field(default=None, description="Trials that the search took.")
    scores: dict[str, float] = Field(
        default_factory=dict,
        description="What the winner and its baselines scored, as 'search/winner', and how sure its gain is, "
        "as 'heldout/confidence' (docs/stopping.md).",
    )
    text_encoder_from: str = Field(default="a", description="a, or the names of those in `components`.")
    vae_from: str = Field(default="a", description="The same for the VAE.")
    components: dict[Component, list[Parent]] = Field(
        default_factory=dict,
        description="What is not A's: component -> where it comes from; of several files it is the mean.",
    )

    @property
    def parents(self) -> list[Parent]:
        """A, B, then those of the components, in the order of their files."""
        return [self.a, self.b, *(parent for several in self.components.values() for parent in several)]


_METADATA: dict[str, Any] = {
    "a": {"metadata"},
    "b": {"metadata"},
    "components": {"__all__": {"__all__": {"metadata"}}},
}


def metadata_of(recipe: Recipe) -> dict[str, str]:
    """The safetensors metadata of the merged file; every value is a string."""
    return {
        **_shared_metadata(recipe, recipe.parents),
        "sd_merge_recipe": json.dumps(_a1111_recipe(recipe)),
        # Its weights line has blocks alone, and would say another merge.
        **({} if elements_in(recipe.weights) else {"sd_mbwrt_recipe": json.dumps(_mbwrt_recipe(recipe))}),
        "autombw_recipe": recipe.model_dump_json(exclude=_METADATA),
    }


class AverageRecipe(BaseModel):
    """What is needed to make a uniform merge of several checkpoints again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Name of the merged checkpoint, without a suffix.")
    parents: list[Parent] = Field(description="Each weighs the same; the first gives text encoder and VAE.")
    architecture: str
    prediction_type: str
    dtype: str = "float16"


AnyRecipe = TypeVar("AnyRecipe", Recipe, AverageRecipe)


def average_metadata(recipe: AverageRecipe) -> dict[str, str]:
    """The safetensors metadata of a uniform merge; every value is a string."""
    return {
        **_shared_metadata(recipe, recipe.parents),
        "autombw_average": recipe.model_dump_json(exclude={"parents": {"__all__": {"metadata"}}}),
    }


def read_recipe(metadata: Mapping[str, str]) -> Recipe | None:
    """Our own recipe from a file's metadata; None when the file is no merge of ours.

    Raises InputError when it is damaged.
    """
    return _read(Recipe, metadata, "autombw_recipe")


def read_average(metadata: Mapping[str, str]) -> AverageRecipe | None:
    """The recipe of a uniform merge from a file's metadata; None when the file is none of ours.

    Raises InputError when it is damaged.
    """
    return _read(AverageRecipe, metadata, "autombw_average")


def _read(kind: type[AnyRecipe], metadata: Mapping[str, str], key: str) -> AnyRecipe | None:
    text = metadata.get(key)
    if not text:
        return None
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{key} is damaged or of a newer version ({f'{where}: ' if where else ''}{first['msg']}); "
            "take the file as it was written"
        ) from error


def _shared_metadata(recipe: Recipe | AverageRecipe, parents: Sequence[Parent]) -> dict[str, str]:
    return {
        "format": "pt",
        "sd_merge_models": json.dumps(_a1111_models(parents)),
        "prediction_type": recipe.prediction_type,
        **modelspec(recipe.architecture, recipe.prediction_type, recipe.name),
        "modelspec.merged_from": ", ".join(parent.name for parent in parents),
    }


def _a1111_recipe(recipe: Recipe) -> dict[str, Any]:
    weights, vaes = list(recipe.weights.values()), recipe.components.get("vae", [])
    return {
        "type": "autombw",
        "primary_model_hash": recipe.a.sha256,
        "secondary_model_hash": recipe.b.sha256,
        "tertiary_model_hash": None,
        "interp_method": "Weighted sum",
        # A1111 has one number here; the mean says most, the block weights stand in the other strings.
        "multiplier": sum(weights) / len(weights) if weights else 0.0,
        "save_as_half": recipe.dtype == "float16",
        "custom_name": recipe.name,
        "config_source": 0,
        "bake_in_vae": vaes[0].name if len(vaes) == 1 else "None",
        "discard_weights": "",
        "is_inpainting": False,
        "is_instruct_pix2pix": False,
    }


def _a1111_models(parents: Sequence[Parent]) -> dict[str, Any]:
    """Every ancestor by its hash, so that the tree of merges can be read from the last file alone."""
    models: dict[str, Any] = {}
    for parent in parents:
        models.update(_json(parent.metadata.get("sd_merge_models")) or {})
        models[parent.sha256] = {
            "name": parent.name,
            "legacy_hash": parent.legacy_hash,
            "sd_merge_recipe": _json(parent.metadata.get("sd_merge_recipe")),
        }
    return models


def _json(text: str | None) -> Any:
    """A parent's metadata may hold anything; what is not JSON is no recipe."""
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


def _mbwrt_recipe(recipe: Recipe) -> dict[str, Any]:
    order = [block for block in RECIPE_ORDER if block in recipe.weights]
    return {
        "type": "auto-mbw-rt",
        "modelA": PurePath(recipe.a.name).name,
        "modelB": PurePath(recipe.b.name).name,
        "modelO": recipe.name,
        "position_id_fix": "Keep Original",
        "output_mode": "FP16" if recipe.dtype == "float16" else "Max Precision",
        "mbwrt_weights": ",".join(f"{recipe.weights[block]:.6g}" for block in order),
        "mbwrt_weights_seq": ",".join(order),
    }
