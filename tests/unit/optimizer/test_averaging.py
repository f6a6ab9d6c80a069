"""The mean of many checkpoints against float64, and against the merge of two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from optimizer.averaging import export_average
from optimizer.blocks import BLOCKS, uniform
from optimizer.checkpoints import expected_tensors
from optimizer.merging import export_merge
from scoring.errors import InputError
from tests.unit.optimizer.checkpoint_files import write_header_only, write_random

UNET = expected_tensors("emoji").unet


def write_many(folder: Path, count: int, dtype: torch.dtype) -> list[Path]:
    return [write_random(folder / f"{seed}.safetensors", seed, dtype) for seed in range(count)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [3, 9])
def test_every_unet_tensor_is_the_float64_mean_rounded_once(
    count: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    paths = write_many(tmp_path, count, dtype)
    export_average(paths, tmp_path / "mean.safetensors", metadata={}, dtype=dtype)
    written, files = load_file(tmp_path / "mean.safetensors"), [load_file(path) for path in paths]
    for key in UNET:
        summands = torch.stack([file[key].double() for file in files])
        rounding = torch.finfo(dtype).eps / 2 * summands.mean(0).abs() + torch.finfo(dtype).smallest_normal
        summation = 0.0 if count > 8 else count * torch.finfo(torch.float32).eps * summands.abs().mean(0)
        assert written[key].dtype == dtype
        assert bool(((written[key].double() - summands.mean(0)).abs() <= rounding + summation).all()), key


def test_the_average_of_two_in_half_precision_is_the_uniform_merge_to_the_bit(tmp_path: Path) -> None:
    a, b = write_many(tmp_path, 2, torch.float16)
    merged, mean = tmp_path / "merged.safetensors", tmp_path / "mean.safetensors"
    export_merge(a, b, uniform(BLOCKS, 0.5), merged, metadata={"title": "one"})
    export_average([a, b], mean, metadata={"title": "one"})
    assert mean.read_bytes() == merged.read_bytes()


def test_the_average_of_two_in_fp32_is_the_uniform_merge_within_one_rounding(tmp_path: Path) -> None:
    """The merge rounds B - A first, the average A + B."""
    a, b = write_many(tmp_path, 2, torch.float32)
    merged, mean = tmp_path / "merged.safetensors", tmp_path / "mean.safetensors"
    export_merge(a, b, uniform(BLOCKS, 0.5), merged, metadata={}, dtype=torch.float32)
    export_average([a, b], mean, metadata={}, dtype=torch.float32)
    ours, theirs, in_a, in_b = (load_file(path) for path in (mean, merged, a, b))
    for key in UNET:
        rounding = torch.finfo(torch.float32).eps * torch.maximum(in_a[key].abs(), in_b[key].abs())
        assert bool(((ours[key] - theirs[key]).abs() <= rounding).all()), key


def test_all_else_is_the_first_file_s_and_ema_copies_are_left_out(tmp_path: Path) -> None:
    rest = {
        "betas": torch.linspace(0.1, 0.2, 10, dtype=torch.float64),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "model_ema.decay": torch.tensor(0.99),
    }
    first = write_random(tmp_path / "first.safetensors", 1, changes=rest)
    others = [write_random(tmp_path / f"{seed}.safetensors", seed) for seed in (2, 3)]
    export_average([first, *others], tmp_path / "mean.safetensors", metadata={"title": "three"})
    written, in_first = load_file(tmp_path / "mean.safetensors"), load_file(first)
    assert written.keys() == in_first.keys() - {"model_ema.decay"}
    for key in written.keys() - UNET.keys():
        assert torch.equal(written[key], rest.get(key, in_first[key].half())), key
    with safe_open(tmp_path / "mean.safetensors", "pt") as file:
        assert file.metadata() == {"title": "three"}


def test_what_is_sealed_is_known_before_the_file_has_its_name(tmp_path: Path) -> None:
    out = tmp_path / "mean.safetensors"
    seen: list[tuple[int, bool]] = []
    export_average(
        write_many(tmp_path, 2, torch.float16),
        out,
        metadata={},
        sealed=lambda sha256: seen.append((len(sha256), out.exists())),
    )
    assert seen == [(64, False)]


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_files_are_refused(count: int, tmp_path: Path) -> None:
    paths = write_many(tmp_path, count, torch.float16)
    with pytest.raises(InputError, match=f"two or more checkpoints are needed, not {count}"):
        export_average(paths, tmp_path / "mean.safetensors", metadata={})


def test_mixed_architectures_are_refused_and_both_named(tmp_path: Path) -> None:
    paths = [
        write_random(tmp_path / "small.safetensors", 1),
        write_random(tmp_path / "other.safetensors", 2),
        write_header_only(tmp_path / "big.safetensors", "sd1"),
    ]
    words = r"small\.safetensors is the emoji zoo and big\.safetensors is SD1\.x, different architectures"
    with pytest.raises(InputError, match=words):
        export_average(paths, tmp_path / "mean.safetensors", metadata={})
    assert not (tmp_path / "mean.safetensors").exists()


def test_a_file_that_lacks_a_unet_tensor_is_refused(tmp_path: Path) -> None:
    key = "model.diffusion_model.out.2.bias"
    broken = write_random(tmp_path / "broken.safetensors", 2, changes={key: None})
    with pytest.raises(InputError, match=rf"UNet of broken\.safetensors does not fit .* lacks {key}"):
        export_average([write_random(tmp_path / "a.safetensors", 1), broken], tmp_path / "o", metadata={})
