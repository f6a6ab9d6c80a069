"""Whatever stands in a file, a reader gives what it is made for or one clear error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.formats.mbwrt_history import HEADER, read_history
from optimizer.formats.mbwrt_recipe import prove, read_mbwrt_recipe
from optimizer.formats.merge_metadata import Model, ancestry_of
from optimizer.formats.presets import read_presets
from scoring.errors import InputError
from tests.unit.optimizer.formats.mbwrt_files import history_text, recipe_text, weights_of

LINES = st.sampled_from(
    [
        "modelA=one",
        "modelB=C:\\two",
        ",".join(["0.5"] * 27),
        ",".join(["0.5"] * 26),
        ",".join(HEADER),
        ",".join(["0.5"] * 30),
        "'3' : 0.5",
        f"'{'9' * 5000}' : 0.5",
        f"Random seed: {'9' * 5000}",
        "Best score: x",
        "NAME\t" + ",".join(["0.5"] * 25),
        '"',
        '0.5,"' + "x" * 140_000,
        "\x85\u2028,١,²",
    ]
)
TEXTS = st.one_of(
    st.text(max_size=300),
    st.lists(LINES | st.text(max_size=20), max_size=8).map("\n".join),
    st.sampled_from(
        [history_text([(weights_of(), 0.5)]), recipe_text(weights_of(), log=weights_of())]
    ).flatmap(
        lambda text: st.tuples(st.just(text), st.integers(0, len(text) - 1), st.text(max_size=4)).map(
            lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] + 1 :]
        )
    ),
)


def read_and_prove(path: Path) -> Any:
    return prove(read_mbwrt_recipe(path))


@pytest.mark.parametrize("read", [read_history, read_and_prove, read_presets])
@settings(max_examples=150, deadline=None)
@given(data=TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=60))
def test_a_text_file_is_read_or_refused_in_words(
    read: Callable[[Path], Any], data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "given.txt"
    file.write_bytes(data)
    refused = ""
    try:
        read(file)
    except InputError as error:
        refused = str(error)
    assert refused == "" or "given.txt" in refused
    assert len(refused) < 600


HASHES = st.sampled_from(["a", "b", "c", ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | HASHES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | HASHES, inner, max_size=3)
    ),
    max_leaves=8,
)
RECIPE = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("primary_model_hash", "secondary_model_hash"), HASHES | JSON),
        **dict.fromkeys(("interp_method", "multiplier", "type", "modelA"), JSON),
        **dict.fromkeys(("mbwrt_weights", "mbwrt_weights_seq"), JSON),
    },
)
MODELS = st.dictionaries(
    HASHES, st.fixed_dictionaries({"name": JSON, "sd_merge_recipe": RECIPE | JSON}) | JSON, max_size=4
)
METADATA = st.fixed_dictionaries(
    {},
    optional={
        "sd_merge_recipe": (RECIPE | JSON).map(json.dumps) | RECIPE | st.text(max_size=9),
        "sd_merge_models": (MODELS | JSON).map(json.dumps) | MODELS,
        "sd_mbwrt_recipe": (RECIPE | JSON).map(json.dumps),
        "autombw_recipe": JSON | JSON.map(json.dumps),
        "autombw_average": JSON.map(json.dumps),
        "autombw_components": JSON.map(json.dumps),
    },
)


@settings(max_examples=300, deadline=None)
@given(metadata=METADATA)
def test_metadata_is_a_tree_or_refused_in_words(metadata: dict[str, Any]) -> None:
    refused, found = "", None
    try:
        found = ancestry_of(metadata, "top")
    except InputError as error:
        refused = str(error)
    assert "the merge metadata" in refused if found is None else titles(found.model)


def titles(model: Model) -> list[str]:
    """What would be shown; it can be printed anywhere."""
    own = model.title.encode("utf-8").decode()
    return [own, *(t for parent in (model.merge.parents if model.merge else ()) for t in titles(parent))]
