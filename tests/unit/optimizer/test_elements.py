"""Elements: tensors with a weight apart from their block's, from what a job says to a merge's tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from optimizer.blocks import BLOCKS, block_of
from optimizer.checkpoints import expected_tensors, load_unet
from optimizer.checkpoints.names import unet_names
from optimizer.elements import Groups, pattern_of_row
from optimizer.formats.mecha import alphas_by_key
from optimizer.merging import LiveMerge, differing_blocks, export_merge
from optimizer.space import Space, SpaceSettings
from optimizer.warm_start import start_weights
from scoring.errors import InputError

TENSORS = expected_tensors("emoji").unet
ELEMENTS = ["IN01/attn2", "IN01/norm", "IN01/norm3", "OUT/out"]


def resolved(*patterns: Any, **others: Any) -> SpaceSettings:
    return SpaceSettings(elements=list(patterns), **others).resolved(BLOCKS, TENSORS)


def space_of(settings: SpaceSettings) -> Space:
    return Space.of(settings, Groups(TENSORS, BLOCKS, settings.element_names).names)


def test_a_tensor_belongs_to_the_element_of_the_longest_part_or_to_its_block() -> None:
    groups = Groups(TENSORS, BLOCKS, ELEMENTS)
    of = {key.removeprefix("model.diffusion_model."): name for key, name in groups.by_key().items()}
    layer = "input_blocks.1.1.transformer_blocks.0"
    assert of[f"{layer}.attn2.to_q.weight"] == "IN01/attn2"
    assert of[f"{layer}.norm2.weight"] == "IN01/norm"
    assert of[f"{layer}.norm3.weight"] == "IN01/norm3"
    assert of[f"{layer}.attn1.to_q.weight"] == "IN01"
    assert of["input_blocks.2.1.transformer_blocks.0.attn2.to_q.weight"] == "IN02"
    # Each block before its elements; OUT has no tensor left.
    assert groups.names == ("IN00", "IN01", *ELEMENTS[:3], *BLOCKS[2:-1], "OUT/out")


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        (["IN00/attn2"], "no tensor of IN00 has 'attn2' in its name"),
        (["IN01/attn", "IN01/attn1", "IN01/attn2"], "all that it names belong to IN01/attn1, IN01/attn2"),
        (["IN99/attn2"], "unknown block 'IN99' of IN99/attn2"),
    ],
)
def test_an_element_without_tensors_is_refused(elements: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Groups(TENSORS, BLOCKS, elements)


def test_a_row_of_supermerger_is_a_pattern() -> None:
    row = pattern_of_row("OUT03 OUT04-OUT05:attn2 attn1.to_out,ff:0.5")
    assert (row.blocks, row.tensors, row.alpha) == ("OUT03 OUT04-OUT05", ["attn2", "attn1.to_out", "ff"], 0.5)
    assert pattern_of_row(":attn2:1").blocks == "all"
    assert pattern_of_row("M00:attn2").alpha is None
    for wrong in (
        "M00",
        "M00::0.5",
        "M00:attn2:x",
        "M00:attn2:nan",
        "M00:NOT attn2:1",
        "M00:a/b:1",
        "a:b:1:2",
    ):
        with pytest.raises(ValueError, match=r"M00|a:b:1:2|part of a tensor"):
            pattern_of_row(wrong)


def test_a_pattern_is_one_parameter_of_its_own() -> None:
    settings = resolved(
        {"blocks": "IN00-IN05", "tensors": "attn2", "bounds": (0.2, 0.6)},
        {"blocks": "M00", "tensors": ["ff", "norm"]},
        "OUT11:attn1:0.25",
        freeze={"IN04": 0.0},
        bounds={"all": (0.1, 0.9)},
    )
    space = space_of(settings)
    shared = tuple(f"IN0{number}/attn2" for number in (1, 2, 4, 5))
    assert [d.blocks for d in space.dimensions if "/" in d.name] == [shared, ("M00/ff", "M00/norm")]
    bounds = {d.name: (d.low, d.high) for d in space.dimensions}
    assert (bounds["IN01/attn2"], bounds["M00/ff"], bounds["M00"]) == ((0.2, 0.6), (0.1, 0.9), (0.1, 0.9))
    weights = space.weights(dict.fromkeys(space.names, 0.5))
    assert weights["IN04"] == 0.0
    assert [weights[name] for name in shared] == [pytest.approx(0.4)] * 4
    assert weights["OUT11/attn1"] == 0.25
    # The chain rule: the slope of a tie is the sum of its elements'.
    slopes = space.slopes(dict.fromkeys(weights, 1.0))
    assert slopes["IN01/attn2"] == pytest.approx(4 * 0.4)
    again = SpaceSettings.model_validate_json(settings.model_dump_json())
    assert again.resolved(BLOCKS, TENSORS) == again == settings


def test_elements_are_named_like_blocks_once_they_are_said() -> None:
    patterns = ["IN01:attn1", "IN02:attn1", "M00:attn1"]
    settings = resolved(*patterns, ties=[["IN01/attn1", "IN02/attn1"]], freeze={"M00/attn1": 0.5})
    assert settings.ties == [["IN01/attn1", "IN02/attn1"]]
    assert settings.freeze == {"M00/attn1": 0.5}
    with pytest.raises(ValidationError, match="unknown element 'M00/ff'; those of `elements`: IN01/attn1"):
        resolved(*patterns, freeze={"M00/ff": 0.5})


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (["IN13:attn2:0.5"], "unknown block 'IN13'"),
        (["IN01:attn2:0.5", "IN01:attn2"], "IN01/attn2 is named twice"),
        (["IN01:attn2:0.5", "IN01:attn:0.1"], "which belongs to the longer part; write that one last"),
        (["IN00 IN03:attn2:0.5"], "no tensor of IN00 IN03 has 'attn2' in its name"),
        ([{"tensors": "attn2", "alpha": 0.5, "bounds": (0, 1)}], "a fixed weight has no bounds"),
        ([{"tensors": "attn2", "bounds": (0.5, 0.5)}], "leaves nothing to search"),
        ([{"tensors": []}], "at least 1"),
        ([5], "a pattern is BLOCKS:ELEMENTS:RATIO"),
    ],
)
def test_what_contradicts_itself_is_refused(patterns: list[Any], words: str) -> None:
    with pytest.raises((ValidationError, InputError), match=words):
        resolved(*patterns)


def test_a_start_point_moves_elements_with_their_blocks() -> None:
    weights = start_weights("GRAD_V", ["IN01/attn2", "M00", "M00/ff"], [])
    assert weights == {"IN01/attn2": pytest.approx(0.916666667), "M00": 0.0, "M00/ff": 0.0}


def test_live_and_file_move_an_element_apart_from_its_block(tiny_models: Path, tmp_path: Path) -> None:
    pair = tiny_models / "left.safetensors", tiny_models / "right.safetensors"
    unet = load_unet(pair[0], device="cpu", dtype=torch.float32)
    merge = LiveMerge(*pair, unet, architecture="emoji", device="cpu", dtype=torch.float32, elements=ELEMENTS)
    assert merge.blocks == differing_blocks(*pair, ELEMENTS)
    weights = {name: 0.1 + number / 40 for number, name in enumerate(merge.blocks)}
    assert merge.apply(weights) == list(merge.blocks)
    assert merge.apply({**weights, "IN01/attn2": 0.9}) == ["IN01/attn2"], "nothing else is touched"
    weights["IN01/attn2"] = 0.9
    export_merge(*pair, weights, tmp_path / "merged.safetensors", metadata={}, dtype=torch.float32)

    a, b, written = (load_file(path) for path in (*pair, tmp_path / "merged.safetensors"))
    names = unet_names(unet)
    for name, parameter in unet.named_parameters():
        key = names[name]
        alpha = weights[_said_of(key)]
        assert torch.equal(written[key], torch.lerp(a[key].float(), b[key].float(), alpha)), key
        assert torch.equal(written[key].reshape(parameter.shape), parameter), key
    assert alphas_by_key(weights, "emoji") == {key: weights[_said_of(key)] for key in TENSORS}


def _said_of(key: str) -> str:
    """ELEMENTS in other words than the program's."""
    block = str(block_of(key))
    if block == "OUT":
        return "OUT/out"
    if block != "IN01":
        return block
    part = next((part for part in ("norm3", "norm", "attn2") if part in key), None)
    return block if part is None else f"IN01/{part}"


def test_slopes_of_an_element_and_of_the_rest_are_the_slope_of_the_block(tiny_models: Path) -> None:
    pair = tiny_models / "left.safetensors", tiny_models / "right.safetensors"
    found = []
    for elements in ([], ["IN01/attn2", "IN01/norm"]):
        unet = load_unet(pair[0], device="cpu", dtype=torch.float32)
        merge = LiveMerge(
            *pair, unet, architecture="emoji", device="cpu", dtype=torch.float32, elements=elements
        )
        with merge.gradients() as gradients:
            sum(parameter.pow(2).sum() for parameter in unet.parameters()).backward()
            found.append(gradients.slopes())
    whole, apart = found
    assert whole["IN01"] == pytest.approx(apart["IN01"] + apart["IN01/attn2"] + apart["IN01/norm"], rel=1e-4)
    assert whole["IN02"] == pytest.approx(apart["IN02"], rel=1e-6)
    assert apart["IN01/attn2"] != 0
