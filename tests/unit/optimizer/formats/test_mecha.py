"""A `.mecha` recipe gives sd-mecha the same tensors that our own export writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from optimizer.blocks import BLOCKS, SDXL_BLOCKS, block_of
from optimizer.checkpoints import expected_tensors
from optimizer.formats.mecha import alphas_by_key, mecha_recipe, recipe_of_alphas, write_mecha
from optimizer.merging import export_merge
from scoring.errors import InputError
from tests.unit.optimizer.checkpoint_files import write_random

sd_mecha = pytest.importorskip("sd_mecha")

# Thirds and sevenths are exact in no binary; the ends are copied.
WEIGHTS = {block: ((7 * place) % 27) / 26 for place, block in enumerate(BLOCKS)}


def silent(*arguments: Any, **options: Any) -> Any:
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(*arguments, **{**options, "disable": True})


def merged_by_sd_mecha(text: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    found = sd_mecha.merge(
        sd_mecha.deserialize(text),
        merge_dtype=torch.float32,
        output_dtype=dtype,
        threads=0,
        tqdm=silent,
        check_extra_keys=False,
    )
    return {key: tensor for key, tensor in found.items() if key != "__metadata__"}


def test_every_tensor_of_the_unet_has_its_blocks_alpha_to_the_bit() -> None:
    text = mecha_recipe("one.safetensors", "two.safetensors", WEIGHTS, "sd1")
    assert text.startswith('version 0.1.0\nmodel "one.safetensors" model_config="sd1-ldm"')
    (table,) = [line for line in text.splitlines() if line.startswith("dict ")]
    alphas = {key: float(value) for key, value in re.findall(r"(\S+)=(\S+)", table)}
    assert alphas == {key: WEIGHTS[str(block_of(key))] for key in expected_tensors("sd1").unet}
    assert alphas["model.diffusion_model.time_embed.0.weight"] == WEIGHTS["TIME_EMBED"]
    assert alphas["model.diffusion_model.out.2.weight"] == WEIGHTS["OUT"]
    assert alphas["model.diffusion_model.output_blocks.11.0.in_layers.0.weight"] == WEIGHTS["OUT11"]


def test_sdxl_has_a_config_of_its_own_in_sd_mecha() -> None:
    weights = {block: place / 21 for place, block in enumerate(SDXL_BLOCKS)}
    text = mecha_recipe("one.safetensors", "two.safetensors", weights, "sdxl")
    assert 'model_config="sdxl-sgm"' in text
    assert "model.diffusion_model.label_emb.0.0.weight=1.0" in text


def test_sd_mecha_merges_what_the_recipe_says(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    one_of_each: dict[str, str] = {}
    for key in expected_tensors("sd1").unet:
        one_of_each.setdefault(str(block_of(key)), key)
    others = [next(iter(expected_tensors("sd1").vae)), next(iter(expected_tensors("sd1").text))]
    keys = [*one_of_each.values(), *others]
    a, b = ({key: torch.randn(7, 5, generator=generator) for key in keys} for _ in "ab")
    # What only A has is A's, whatever B lacks.
    save_file(a, tmp_path / "a.safetensors")
    save_file({key: b[key] for key in keys[:-1]}, tmp_path / "b.safetensors")
    alphas = {key: WEIGHTS[block] for block, key in one_of_each.items()}
    text = recipe_of_alphas(
        str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors"), alphas, "sd1-ldm"
    )
    found = merged_by_sd_mecha(text, torch.float32)
    assert set(found) == set(keys)
    for key in one_of_each.values():
        if alphas[key] in (0.0, 1.0):
            assert torch.equal(found[key], b[key] if alphas[key] else a[key])
        else:
            expected = a[key].double() * (1 - alphas[key]) + b[key].double() * alphas[key]
            torch.testing.assert_close(found[key].double(), expected, rtol=0, atol=1e-6)
    assert all(torch.equal(found[key], a[key]) for key in others)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_tensors_are_those_of_our_export(dtype: torch.dtype, tmp_path: Path) -> None:
    a, b = (write_random(tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate("ab"))
    # Small files of SD1's topology: its names and places, other widths.
    alphas = alphas_by_key(WEIGHTS, "emoji")
    write_mecha(tmp_path / "merge.mecha", recipe_of_alphas(str(a), str(b), alphas, "sd1-ldm"))
    found = merged_by_sd_mecha((tmp_path / "merge.mecha").read_text(), dtype)
    export_merge(a, b, WEIGHTS, tmp_path / "ours.safetensors", metadata={}, dtype=dtype)
    ours = load_file(tmp_path / "ours.safetensors")
    assert set(ours) == set(found)
    assert all(torch.equal(ours[key], found[key]) for key in ours)


def test_blocks_that_do_not_differ_need_no_weight() -> None:
    alphas = alphas_by_key({"M00": 0.25, "OUT": 1.0}, "sd1")
    assert {block_of(key) for key in alphas} == {"M00", "OUT"}
    assert alphas["model.diffusion_model.middle_block.0.in_layers.0.weight"] == 0.25


@pytest.mark.parametrize(
    ("architecture", "weights", "message"),
    [
        (
            "sd2",
            WEIGHTS,
            r"sd-mecha has no config for SD2\.x, .*it knows SD1\.x and SDXL; export a checkpoint",
        ),
        ("emoji", WEIGHTS, "sd-mecha has no config for the emoji zoo"),
        ("sd1", {**WEIGHTS, "IN12": 0.5}, "unknown block 'IN12'"),
        ("sd1", {"LABEL_EMB": 0.5}, "unknown block 'LABEL_EMB'"),
        ("sd1", {**WEIGHTS, "IN00": 1.5}, "the weight of block IN00 is 1.5"),
    ],
)
def test_what_sd_mecha_cannot_say_is_refused(
    architecture: str, weights: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        mecha_recipe("one.safetensors", "two.safetensors", weights, architecture)


def test_names_that_its_files_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'a=b\.safetensors' can't be written into a \.mecha file"):
        mecha_recipe("a=b.safetensors", "two.safetensors", WEIGHTS, "sd1")
    with pytest.raises(
        InputError, match=r"merge\.txt: sd-mecha reads recipes from files that end in \.mecha"
    ):
        write_mecha(tmp_path / "merge.txt", "")
    with pytest.raises(InputError, match="cannot be written: No such file"):
        write_mecha(tmp_path / "gone/merge.mecha", "")
