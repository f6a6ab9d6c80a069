"""The merges that metadata tells of become a typed tree: A1111's, auto-MBW-rt's and our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from optimizer.checkpoints import write_checkpoint
from optimizer.component_recipes import ComponentRecipe, component_metadata
from optimizer.formats.merge_metadata import Model, ancestry_of, read_ancestry
from optimizer.recipes import AverageRecipe, Parent, Recipe, average_metadata, metadata_of
from scoring.errors import InputError
from tests.unit.optimizer.formats.mbwrt_files import RECIPE, SHARED, weights_of

REAL = SHARED / "recipes/recipe-10a.json"


def merged(primary: str, secondary: str, multiplier: float = 0.5, **more: Any) -> dict[str, Any]:
    """A recipe as A1111 writes it."""
    return {
        "type": "webui",
        "primary_model_hash": primary,
        "secondary_model_hash": secondary,
        "tertiary_model_hash": None,
        "interp_method": "Weighted sum",
        "multiplier": multiplier,
        "save_as_half": True,
        "custom_name": "x",
        **more,
    }


def model(name: str, recipe: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": f"{name}.safetensors", "legacy_hash": name * 8, "sd_merge_recipe": recipe}


def strings(recipe: Any, models: Any) -> dict[str, str]:
    return {"sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(models), "format": "pt"}


def depth(of: Model) -> int:
    return 0 if of.merge is None else 1 + max(depth(parent) for parent in of.merge.parents)


def test_a_nested_merge_of_a1111_is_a_tree() -> None:
    models = {
        "a" * 64: model("a", merged("c" * 64, "d" * 64, 0.25)),
        "b" * 64: model("b"),
        "c" * 64: model("c"),
    }
    found = ancestry_of(strings(merged("a" * 64, "b" * 64, 0.75, discard_weights=""), models), "top")
    merge = found.model.merge
    assert merge is not None
    assert (found.model.name, merge.kind, merge.method, merge.multiplier) == (
        "top",
        "webui",
        "Weighted sum",
        0.75,
    )
    assert merge.details == {"save_as_half": True, "discard_weights": ""}
    a, b = merge.parents
    assert (b.name, b.sha256, b.legacy_hash, b.merge) == ("b.safetensors", "b" * 64, "b" * 8, None)
    assert a.merge is not None
    assert a.merge.multiplier == 0.25
    c, d = a.merge.parents
    assert c.name == "c.safetensors"
    # An ancestor that the table lacks is known by its hash.
    assert (d.name, d.title) == (None, "sha256 dddddddddd…")
    assert found.notices == ()


def test_three_parents_of_an_add_difference(tmp_path: Path) -> None:
    recipe = merged("a" * 64, "b" * 64, tertiary_model_hash="c" * 64, interp_method="Add difference")
    file = tmp_path / "top.safetensors"
    write_checkpoint(file, {"x": torch.zeros(1)}, strings(recipe, {}))
    merge = read_ancestry(file).model.merge
    assert merge is not None
    assert merge.method == "Add difference"
    assert [parent.sha256 for parent in merge.parents] == ["a" * 64, "b" * 64, "c" * 64]


def own(**changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "name": "winner",
        "a": Parent(name="cats.safetensors", sha256="a" * 64, legacy_hash="01234567"),
        "b": Parent(name="dogs.safetensors", sha256="b" * 64),
        "architecture": "sd2",
        "prediction_type": "v_prediction",
        "weights": weights_of(),
    }
    return Recipe.model_validate({**fields, **changes})


def test_our_own_recipe_has_every_weight_and_the_ancestors_of_its_parents() -> None:
    older = {"sd_merge_recipe": json.dumps(merged("c" * 64, "d" * 64)), "sd_merge_models": "{}"}
    parent = Parent(name="cats.safetensors", sha256="a" * 64, legacy_hash="01234567", metadata=older)
    found = ancestry_of(metadata_of(own(a=parent)), "winner.safetensors").model.merge
    assert found is not None
    assert (found.kind, found.weights) == ("autombw", weights_of())
    cats, dogs = found.parents
    assert (cats.name, cats.legacy_hash, dogs.name) == ("cats.safetensors", "01234567", "dogs.safetensors")
    assert cats.merge is not None
    assert [parent.sha256 for parent in cats.merge.parents] == ["c" * 64, "d" * 64]


def test_a_uniform_merge_has_all_its_parents() -> None:
    parents = [Parent(name=f"{name}.safetensors", sha256=name * 64) for name in "abc"]
    recipe = AverageRecipe(name="mean", parents=parents, architecture="sd1", prediction_type="epsilon")
    found = ancestry_of(average_metadata(recipe), "mean").model.merge
    assert found is not None
    assert (found.method, [parent.name for parent in found.parents]) == (
        "Uniform merge",
        ["a.safetensors", "b.safetensors", "c.safetensors"],
    )


def components(action: str, **parents: list[Parent]) -> dict[str, str]:
    recipe = {"name": "joined", "action": action, "parents": parents, "dtype": "float16"}
    return component_metadata(ComponentRecipe.model_validate(recipe))


def test_a_file_of_components_says_where_each_comes_from() -> None:
    older = strings(merged("c" * 64, "d" * 64, 0.25), {"c" * 64: model("c")})
    cats = Parent(name="cats.safetensors", sha256="a" * 64, metadata=older)
    dogs, birds = (Parent(name=f"{name}.safetensors", sha256=name[0] * 64) for name in ("dogs", "birds"))
    found = ancestry_of(components("join", unet=[cats], text_encoder=[dogs, birds]), "joined").model.merge
    assert found is not None
    assert found.method == (
        "Join: unet of cats.safetensors, text_encoder of dogs.safetensors + birds.safetensors"
    )
    assert [parent.name for parent in found.parents] == [
        "cats.safetensors",
        "dogs.safetensors",
        "birds.safetensors",
    ]
    assert found.parents[0].merge is not None
    assert found.parents[0].merge.multiplier == 0.25


def test_a_pruned_file_was_made_as_the_whole_one_was() -> None:
    whole = Parent(name="winner.safetensors", sha256="e" * 64, metadata=metadata_of(own()))
    found = ancestry_of(components("prune", unet=[whole]), "pruned").model.merge
    assert found is not None
    assert found.method == "Prune: unet of winner.safetensors"
    (parent,) = found.parents
    assert parent.name == "winner.safetensors"
    assert parent.merge is not None
    assert parent.merge.weights == weights_of()
    assert [each.name for each in parent.merge.parents] == ["cats.safetensors", "dogs.safetensors"]


def mbwrt(**changes: Any) -> dict[str, str]:
    weights = weights_of()
    recipe = {
        "type": "auto-mbw-rt",
        "modelA": "one",
        "modelB": "two",
        "modelO": "three",
        "position_id_fix": "Keep Original",
        "output_mode": "Max Precision",
        "mbwrt_weights": ",".join(str(weights[block]) for block in RECIPE),
        "mbwrt_weights_seq": ",".join(RECIPE),
    }
    return {"sd_mbwrt_recipe": json.dumps({**recipe, **changes})}


def test_auto_mbw_rt_names_the_block_of_every_weight() -> None:
    found = ancestry_of(mbwrt(), "three")
    assert found.model.merge is not None
    assert found.model.merge.weights == weights_of()
    assert [parent.name for parent in found.model.merge.parents] == ["one", "two"]
    assert found.notices == ()


@pytest.mark.parametrize("sequence", ["", "IN00,IN01", ",".join(["IN00"] * 27)])
def test_auto_mbw_rts_weights_are_not_read_in_a_sequence_that_does_not_fit(sequence: str) -> None:
    found = ancestry_of(mbwrt(mbwrt_weights_seq=sequence), "three")
    assert found.model.merge is not None
    assert found.model.merge.weights is None
    assert "mbwrt_weights_seq does not name a block for every weight" in found.notices[0]


def test_what_is_no_json_is_noticed_and_the_rest_is_read() -> None:
    metadata = {**strings(merged("a" * 64, "b" * 64), {}), "sd_merge_models": "{not json"}
    found = ancestry_of(metadata, "top")
    assert found.model.merge is not None
    assert found.notices == (
        "sd_merge_models is no JSON (Expecting property name enclosed in double quotes: line 1 column 2 "
        "(char 1)): not read",
    )


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "tells of no merge: its metadata has no recipe of A1111, auto-MBW-rt or autombw"),
        ({"sd_merge_recipe": "{"}, "tells of no merge: sd_merge_recipe is no JSON"),
        ({"sd_merge_recipe": "[1, 2]"}, r"tells of no merge: sd_merge_recipe is no table but '\[1, 2\]'"),
        ({"autombw_recipe": "{"}, "tells of no merge: autombw_recipe is damaged or of a newer version"),
        ({"autombw_recipe": "{}"}, "autombw_recipe is damaged or of a newer version .name: Field required"),
        ({"sd_mbwrt_recipe": "yes"}, "tells of no merge: sd_mbwrt_recipe is no JSON"),
        ({"sd_merge_recipe": "[" * 100_000}, "sd_merge_recipe is no JSON"),
    ],
)
def test_a_file_that_tells_of_no_merge_says_why(
    metadata: dict[str, str], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "plain.safetensors"
    write_checkpoint(file, {"x": torch.zeros(1)}, metadata)
    with pytest.raises(InputError, match=rf"plain\.safetensors: .*{message}"):
        read_ancestry(file)


@pytest.mark.parametrize("text", ["{", "[1]", '{"__metadata__": 3}'])
def test_a_json_file_without_metadata_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(InputError, match=r"m\.json: .*give a checkpoint or its metadata"):
        read_ancestry(tmp_path / "m.json")


def test_a_tree_that_cannot_be_is_refused() -> None:
    circle = {
        "a" * 64: model("a", merged("b" * 64, "c" * 64)),
        "b" * 64: model("b", merged("a" * 64, "c" * 64)),
    }
    with pytest.raises(InputError, match="goes in a circle: aaaaaaaaaa… is its own ancestor"):
        ancestry_of(strings(merged("a" * 64, "b" * 64), circle), "x")
    deep = {str(number): model("x", merged(str(number + 1), "c" * 64)) for number in range(1000)}
    with pytest.raises(InputError, match="nested deeper than 200 merges"):
        ancestry_of(strings(merged("0", "c" * 64), deep), "x")


def test_a_model_that_is_used_a_thousand_times_is_read_once() -> None:
    # Each generation merges the one before it with itself: 2^60 paths.
    twice = {str(number): model("x", merged(str(number + 1), str(number + 1))) for number in range(60)}
    found = ancestry_of(strings(merged("0", "0"), twice), "x").model
    for _ in range(60):
        assert found.merge is not None
        assert found.merge.parents[0] is found.merge.parents[1]
        found = found.merge.parents[0]


@pytest.mark.skipif(not REAL.exists(), reason="the shared real recipe is not here")
def test_the_real_recipe_is_nine_merges_deep() -> None:
    found = read_ancestry(REAL)
    assert found.notices == ()
    assert depth(found.model) == 9
    names, multipliers, each = [], [], found.model
    while each.merge is not None:
        multipliers.append(each.merge.multiplier)
        names.append(each.merge.parents[0].name)
        each = each.merge.parents[0]
    assert multipliers == [0.1, 0.111, 0.125, 0.143, 0.167, 0.2, 0.25, 0.333, 0.5]
    assert names[0] == "09a-vcbpmt_d8cwlbd_aweb5m.safetensors"
    assert names[-1] == "VBP23-1024-ep49-sd-v1-4.safetensors"
