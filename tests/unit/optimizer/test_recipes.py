"""A recipe becomes the metadata strings that A1111, auto-MBW-rt and we ourselves read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optimizer.blocks import BLOCKS, RECIPE_ORDER
from optimizer.recipes import Parent, Recipe, metadata_of, read_recipe

REAL_RECIPE = Path(__file__).parents[3] / "../shared/data/recipes/recipe-10a.json"
WEIGHTS = {block: round(i / 26, 4) for i, block in enumerate(BLOCKS)}


def recipe(**changes: object) -> Recipe:
    fields: dict[str, object] = {
        "name": "winner",
        "a": Parent(name="cats.safetensors", sha256="a" * 64, legacy_hash="01234567"),
        "b": Parent(name="dogs.safetensors", sha256="b" * 64),
        "architecture": "sd2",
        "prediction_type": "v_prediction",
        "weights": WEIGHTS,
    }
    return Recipe.model_validate(fields | changes)


def test_every_metadata_value_is_a_string_as_safetensors_demands() -> None:
    assert {type(v) for v in metadata_of(recipe()).values()} == {str}


def test_our_own_recipe_comes_back_with_weights_by_name() -> None:
    back = read_recipe(metadata_of(recipe()))
    assert back == recipe()
    assert read_recipe({"format": "pt"}) is None


def test_a1111_reads_hashes_and_names_of_both_parents() -> None:
    metadata = metadata_of(recipe())
    merge, models = json.loads(metadata["sd_merge_recipe"]), json.loads(metadata["sd_merge_models"])
    assert (merge["primary_model_hash"], merge["secondary_model_hash"]) == ("a" * 64, "b" * 64)
    assert models["a" * 64] == {
        "name": "cats.safetensors",
        "legacy_hash": "01234567",
        "sd_merge_recipe": None,
    }
    assert models["b" * 64]["name"] == "dogs.safetensors"


def test_auto_mbw_rt_gets_its_own_order_and_the_order_spelt_out() -> None:
    mbwrt = json.loads(metadata_of(recipe())["sd_mbwrt_recipe"])
    names = mbwrt["mbwrt_weights_seq"].split(",")
    assert tuple(names) == RECIPE_ORDER
    assert [float(w) for w in mbwrt["mbwrt_weights"].split(",")] == [WEIGHTS[n] for n in names]


def test_v_prediction_is_not_lost() -> None:
    metadata = metadata_of(recipe())
    assert metadata["prediction_type"] == "v_prediction"
    assert metadata["modelspec.prediction_type"] == "v"


@pytest.mark.skipif(not REAL_RECIPE.exists(), reason="the shared real recipe is not here")
def test_a_parent_that_is_a_merge_keeps_all_its_ancestors() -> None:
    real = json.loads(REAL_RECIPE.read_text())["__metadata__"]
    parent = Parent(
        name="10a.safetensors", sha256="c" * 64, metadata={k: json.dumps(v) for k, v in real.items()}
    )
    models = json.loads(metadata_of(recipe(a=parent))["sd_merge_models"])
    assert set(models) == {*real["sd_merge_models"], "c" * 64, "b" * 64}
    assert models["c" * 64]["sd_merge_recipe"] == real["sd_merge_recipe"]


def test_a_parent_with_broken_metadata_is_a_parent_without_ancestors() -> None:
    parent = Parent(name="x.safetensors", sha256="c" * 64, metadata={"sd_merge_models": "{not json"})
    assert set(json.loads(metadata_of(recipe(a=parent))["sd_merge_models"])) == {"c" * 64, "b" * 64}
