"""Inspecting a checkpoint without loading it, and refusing what is no checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from optimizer.checkpoints import (
    blocks_of,
    check_pair,
    expected_tensors,
    inspect_checkpoint,
    open_checkpoint,
    write_checkpoint,
)
from scoring.errors import InputError
from tests.unit.optimizer.checkpoint_files import random_tensors, write_header_only, write_random

UNET_KEY = "model.diffusion_model.input_blocks.3.0.op.weight"
EMA = {f"model_ema.diffusion_modelkey{number}": torch.zeros(1) for number in range(5)}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("models") / "good.safetensors", seed=1)


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [("sd1", 1_066_235_307), ("sd2", 1_289_952_427), ("sdxl", 3_468_840_623)],
)
def test_a_random_weight_file_is_named_by_its_shapes(
    tmp_path: Path, architecture: str, parameters: int
) -> None:
    found = inspect_checkpoint(write_header_only(tmp_path / "x.safetensors", architecture), statistics=False)
    assert found.architecture == architecture
    assert found.parameters == pytest.approx(parameters, rel=0.002)
    assert (found.missing_keys, found.extra_keys, found.ema_keys) == ([], [], 0)
    assert found.dtypes == {"F16": found.tensors}
    assert (found.sha256, found.bad_values) == (None, None)


@pytest.mark.parametrize("architecture", ["sd1", "sd2", "sdxl", "emoji"])
def test_every_unet_tensor_belongs_to_a_block_and_every_block_has_one(architecture: str) -> None:
    from optimizer.blocks import block_of

    assert {block_of(key) for key in expected_tensors(architecture).unet} == set(blocks_of(architecture))


def test_what_real_files_hold_beside_the_model_is_not_called_extra(tmp_path: Path) -> None:
    known = {
        "betas": (1000,),
        "sqrt_recipm1_alphas_cumprod": (1000,),
        "posterior_mean_coef1": (1000,),
        "cond_stage_model.model.logit_scale": (),
        "cond_stage_model.model.text_projection": (1024, 1024),
        "cond_stage_model.model.transformer.resblocks.23.ln_1.weight": (1024,),
        "model_ema.decay": (),
    }
    found = inspect_checkpoint(
        write_header_only(tmp_path / "x.safetensors", "sd2", {**known, "control_net.x": (1,)}),
        statistics=False,
    )
    assert found.extra_keys == ["control_net.x"]
    assert found.ema_keys == 1


def test_statistics_and_hash_of_a_good_file(good: Path) -> None:
    found = inspect_checkpoint(good)
    assert found.sha256 == hashlib.sha256(good.read_bytes()).hexdigest()
    assert found.short_hash == found.sha256[:10]
    assert found.bad_values == {}
    assert found.name == "good.safetensors"
    assert json.loads(found.model_dump_json())["architecture"] == "emoji"


def test_the_hash_of_old_is_of_64_kib_at_1_mib(tmp_path: Path, good: Path) -> None:
    content = good.read_bytes()
    assert len(content) > 0x110000, "else this shows nothing"
    found = inspect_checkpoint(good, statistics=False)
    assert found.legacy_hash == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
    other = tmp_path / "other.safetensors"
    other.write_bytes(content[:0x110000] + bytes(len(content) - 0x110000))
    assert inspect_checkpoint(other, statistics=False).legacy_hash == found.legacy_hash


def test_the_zoo_is_named_too(good: Path) -> None:
    found = inspect_checkpoint(good, statistics=False)
    assert found.architecture == "emoji"
    assert found.parameters == sum(tensor.numel() for tensor in random_tensors(1).values())


@pytest.mark.parametrize("length", [0x80, 0x280, 0x4B50])
def test_a_header_length_that_looks_like_a_pickle_or_a_zip_is_no_pickle(tmp_path: Path, length: int) -> None:
    header = b'{"lora_a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'.ljust(length)
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(InputError, match="is a LoRA"):
        inspect_checkpoint(path)


def test_missing_and_extra_keys_are_listed(tmp_path: Path) -> None:
    path = write_random(tmp_path / "x.safetensors", 1, changes={UNET_KEY: None, "odd": torch.zeros(2)})
    found = inspect_checkpoint(path)
    assert found.missing_keys == [UNET_KEY]
    assert found.extra_keys == ["odd"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nan_and_inf_are_counted_per_block(tmp_path: Path, dtype: torch.dtype) -> None:
    bad = random_tensors(1, dtype)[UNET_KEY].clone()
    bad.view(-1)[:3] = torch.nan
    bad.view(-1)[3] = -torch.inf
    decoder = "first_stage_model.decoder.conv_in.bias"
    vae = torch.full(expected_tensors("emoji").vae[decoder], torch.inf, dtype=dtype)
    found = inspect_checkpoint(
        write_random(tmp_path / "x.safetensors", 1, dtype, changes={UNET_KEY: bad, decoder: vae})
    )
    assert found.bad_values is not None
    assert {part: (bad.nan, bad.inf) for part, bad in found.bad_values.items()} == {
        "IN03": (3, 1),
        "VAE": (0, vae.numel()),
    }


def test_an_embedded_recipe_is_read(tmp_path: Path) -> None:
    recipe = {"type": "weighted-sum", "multiplier": 0.3}
    path = write_random(
        tmp_path / "x.safetensors", 1, metadata={"sd_merge_recipe": json.dumps(recipe), "note": "mine"}
    )
    assert inspect_checkpoint(path).metadata == {"sd_merge_recipe": recipe, "note": "mine"}


# --- prediction type: always with how it is known ---


@pytest.mark.parametrize(
    ("name", "architecture", "told", "expected", "known_by", "assumed"),
    [
        ("x", "sd1", None, "epsilon", "assumed: SD1.x", True),
        ("x", "sd1", "v", "v_prediction", "told by the user", False),
        ("anime-vpred", "sd1", None, "v_prediction", "file name", False),
        ("v2-1_768-ema-pruned", "sd2", None, "v_prediction", "file name", False),
        ("v2-1_512-ema-pruned", "sd2", None, "epsilon", "file name", False),
        ("wd-x", "sd2", None, "v_prediction", "assumed: the file does not say", True),
        ("x", "sdxl", None, "epsilon", "assumed: SDXL", True),
        ("x", "emoji", None, "v_prediction", "architecture", False),
    ],
)
def test_prediction_type_and_how_it_is_known(
    tmp_path: Path,
    name: str,
    architecture: str,
    told: str | None,
    expected: str,
    known_by: str,
    assumed: bool,
) -> None:
    path = write_header_only(tmp_path / f"{name}.safetensors", architecture)
    found = inspect_checkpoint(path, statistics=False, prediction_type=told)
    assert (found.prediction_type, found.prediction_assumed) == (expected, assumed)
    assert found.prediction_known_by.startswith(known_by)


@pytest.mark.parametrize("key", ["modelspec.prediction_type", "prediction_type"])
def test_metadata_tells_the_prediction_type(tmp_path: Path, key: str) -> None:
    path = write_random(tmp_path / "x-vpred.safetensors", 1, metadata={key: "epsilon"})
    found = inspect_checkpoint(path, statistics=False)
    assert (found.prediction_type, found.prediction_known_by) == ("epsilon", f"metadata {key}")


def test_an_unknown_prediction_type_is_refused(good: Path) -> None:
    with pytest.raises(InputError, match="unknown prediction type 'x0'; give epsilon or v_prediction"):
        inspect_checkpoint(good, statistics=False, prediction_type="x0")


# --- bad files ---


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.safetensors does not exist"):
        inspect_checkpoint(tmp_path / "gone.safetensors")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory; give a single-file checkpoint"):
        inspect_checkpoint(tmp_path)


def test_zero_bytes(tmp_path: Path) -> None:
    path = tmp_path / "empty.safetensors"
    path.touch()
    with pytest.raises(InputError, match=r"empty\.safetensors is empty \(0 bytes\)"):
        inspect_checkpoint(path)


@pytest.mark.parametrize("kept", [5, 0.5, 0.999])
def test_truncated(tmp_path: Path, good: Path, kept: float) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(good.read_bytes())
    os.truncate(path, int(kept) or int(kept * path.stat().st_size))
    with pytest.raises(InputError, match=r"cut\.safetensors is truncated.*download or copy it again"):
        inspect_checkpoint(path)


def test_header_larger_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="header would be larger than the file"):
        inspect_checkpoint(path)


@pytest.mark.parametrize(
    "header",
    [
        b"not json at all",
        b"[1, 2]",
        b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": 3}',
        b"[" * 60_000,
    ],
)
def test_damaged_header(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(InputError, match=r"x\.safetensors.*download or copy it again"):
        inspect_checkpoint(path)


class _Bomb:
    """A pickle of this runs a command when it is opened carelessly."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.witness}'",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_code_is_refused_and_never_run(tmp_path: Path, legacy: bool) -> None:
    witness, path = tmp_path / "witness", tmp_path / "evil.ckpt"
    torch.save({"x": _Bomb(witness)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match=r"evil\.ckpt is a (bare )?pickle.*convert it to \.safetensors"):
        inspect_checkpoint(path)
    assert not witness.exists()
    # The bomb is live: only then does the file above prove anything.
    pickle.loads(pickle.dumps(_Bomb(witness)))
    assert witness.exists()


def test_a_ckpt_with_nothing_but_tensors_is_read(tmp_path: Path) -> None:
    tensors = random_tensors(1)
    torch.save({"state_dict": tensors, "global_step": 875000}, tmp_path / "x.ckpt")
    assert inspect_checkpoint(tmp_path / "x.ckpt").architecture == "emoji"
    with open_checkpoint(tmp_path / "x.ckpt") as file:
        assert torch.equal(file.tensor(UNET_KEY), tensors[UNET_KEY])


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(InputError, match="packed or oversized"):
        inspect_checkpoint(path)


def test_a_tensor_that_poses_as_terabytes_is_refused(tmp_path: Path) -> None:
    torch.save({UNET_KEY: torch.zeros(1).expand(1 << 40)}, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="larger than its data"):
        inspect_checkpoint(tmp_path / "x.ckpt")


@pytest.mark.parametrize("size", [10, 0.5])
def test_a_truncated_ckpt_is_refused(tmp_path: Path, size: float) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({UNET_KEY: torch.zeros(1000)}, path)
    os.truncate(path, int(size) or int(size * path.stat().st_size))
    with pytest.raises(InputError, match=r"x\.ckpt is a truncated or damaged"):
        inspect_checkpoint(path)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "is a LoRA, not a checkpoint"),
        ("down_blocks.0.resnets.0.conv1.weight", "part of a diffusers folder"),
        ("first_stage_model.decoder.conv_in.weight", "no Stable Diffusion checkpoint"),
    ],
)
def test_something_else_than_a_checkpoint_is_named(tmp_path: Path, key: str, message: str) -> None:
    write_checkpoint(tmp_path / "x.safetensors", {key: torch.zeros(4, 4)}, {})
    with pytest.raises(InputError, match=message):
        inspect_checkpoint(tmp_path / "x.safetensors")


def test_an_inpainting_model_is_refused_by_its_first_convolution(tmp_path: Path) -> None:
    path = write_header_only(
        tmp_path / "x.safetensors", "sd1", {"model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3)}
    )
    with pytest.raises(InputError, match=r"an inpainting model .*320x9x3x3 where 320x4x3x3 is needed"):
        inspect_checkpoint(path, statistics=False)


def test_an_unknown_architecture_is_refused_with_its_numbers(tmp_path: Path) -> None:
    attention = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    refiner = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(384, 4, 3, 3),
        attention: torch.zeros(768, 1280),
    }
    write_checkpoint(tmp_path / "refiner.safetensors", refiner, {})
    with pytest.raises(InputError, match="unknown architecture: 384 channels and text 1280 wide"):
        inspect_checkpoint(tmp_path / "refiner.safetensors")


# --- pairs ---


def test_sd1_with_sd2_names_the_key_and_both_shapes(tmp_path: Path) -> None:
    a = inspect_checkpoint(write_header_only(tmp_path / "a.safetensors", "sd1"), statistics=False)
    b = inspect_checkpoint(write_header_only(tmp_path / "b.safetensors", "sd2"), statistics=False)
    with pytest.raises(InputError, match=r"attn2\.to_k\.weight is 320x768 against 320x1024"):
        check_pair(a, b)


def test_a_equal_to_b(tmp_path: Path, good: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(good.read_bytes())
    with pytest.raises(InputError, match=r"A equal to B: good\.safetensors and copy\.safetensors"):
        check_pair(inspect_checkpoint(good), inspect_checkpoint(copy))


def test_nan_weights_name_the_model_and_the_block(tmp_path: Path, good: Path) -> None:
    bad = random_tensors(2)[UNET_KEY].clone()
    bad.view(-1)[7] = torch.nan
    broken = inspect_checkpoint(write_random(tmp_path / "broken.safetensors", 2, changes={UNET_KEY: bad}))
    for pair in ((inspect_checkpoint(good), broken), (broken, inspect_checkpoint(good))):
        with pytest.raises(
            InputError, match=r"broken\.safetensors is broken: block IN03 has 1 NaN and 0 Inf"
        ):
            check_pair(*pair)


def test_ema_keys_in_one_only_are_left_out_and_it_is_said(tmp_path: Path, good: Path) -> None:
    b = inspect_checkpoint(write_random(tmp_path / "b.safetensors", 2, changes=EMA))
    assert check_pair(inspect_checkpoint(good), b) == [
        "EMA weights in B (b.safetensors, 5 keys) only: left out, the rest is merged"
    ]


def test_a_good_pair_has_no_notes(tmp_path: Path, good: Path) -> None:
    assert (
        check_pair(inspect_checkpoint(good), inspect_checkpoint(write_random(tmp_path / "b.safetensors", 2)))
        == []
    )


def test_an_incomplete_a_is_refused_and_a_b_without_vae_is_noted(tmp_path: Path, good: Path) -> None:
    vae = dict.fromkeys(expected_tensors("emoji").vae)
    stripped = inspect_checkpoint(write_random(tmp_path / "stripped.safetensors", 2, changes=vae))
    with pytest.raises(InputError, match=r"stripped\.safetensors lacks first_stage_model"):
        check_pair(stripped, inspect_checkpoint(good))
    (note,) = check_pair(inspect_checkpoint(good), stripped)
    assert "VAE and text encoder come from A" in note


def test_known_and_different_prediction_types_are_refused(tmp_path: Path, good: Path) -> None:
    b = inspect_checkpoint(
        write_random(tmp_path / "b.safetensors", 2, metadata={"prediction_type": "epsilon"})
    )
    with pytest.raises(InputError, match="same prediction type"):
        check_pair(inspect_checkpoint(good), b)
