"""Models as people have them: diffusers folders, EMA copies, mixed precision, and what no merge takes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from optimizer.averaging import export_average
from optimizer.checkpoints import (
    ARCHITECTURES,
    config_folder,
    expected_tensors,
    inspect_checkpoint,
    list_models,
    load_components,
    open_checkpoint,
    resolve_model,
    single_file_tensors,
    write_checkpoint,
)
from optimizer.checkpoints.diffusers_folders import open_clip_origins, vae_origins
from optimizer.checkpoints.names import ema_name
from optimizer.checkpoints.reading import CheckpointFile, Entry, open_file
from optimizer.checkpoints.views import Origin
from scoring.errors import InputError
from tests.unit.optimizer.checkpoint_files import random_tensors, write_header_only, write_random

UNET = expected_tensors("emoji").unet
FIRST = "model.diffusion_model.input_blocks.0.0.weight"


def zoo_modules() -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]:
    torch.manual_seed(7)
    config = {
        part: json.loads((config_folder("emoji") / part / "config.json").read_text())
        for part in ("unet", "vae", "text_encoder")
    }
    return (
        UNet2DConditionModel.from_config(config["unet"]),
        AutoencoderKL.from_config(config["vae"]),
        CLIPTextModel(CLIPTextConfig(**config["text_encoder"])),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random zoo model as diffusers' `save_pretrained` lays it out."""
    path = tmp_path_factory.mktemp("models") / "laid-out"
    for part, module in zip(("unet", "vae", "text_encoder"), zoo_modules(), strict=True):
        module.save_pretrained(path / part)
    (path / "scheduler").mkdir()
    (path / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "epsilon"}')
    (path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return path


# --- diffusers folders ---


def test_a_diffusers_folder_is_the_single_file_of_the_same_modules(folder: Path) -> None:
    wanted = single_file_tensors(*zoo_modules())
    with open_checkpoint(folder) as file:
        assert file.entries.keys() == wanted.keys()
        for key, tensor in wanted.items():
            assert torch.equal(file.tensor(key), tensor), key
            assert file.entries[key] == Entry(tensor.dtype, tuple(tensor.shape)), key
            middle = file.flat(key, 1, tensor.numel(), torch.empty(4 * tensor.numel(), dtype=torch.uint8))
            assert torch.equal(middle, tensor.reshape(-1)[1:]), key


def test_a_folder_is_inspected_hashed_and_says_its_prediction_type(folder: Path) -> None:
    found = inspect_checkpoint(folder)
    assert (found.name, found.architecture) == ("laid-out", "emoji")
    assert (found.prediction_type, found.prediction_known_by) == ("epsilon", "metadata prediction_type")
    assert (found.missing_keys, found.extra_keys, found.bad_values) == ([], [], {})
    files = ["text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"]
    lines = [
        f"{hashlib.sha256((folder / f'{name}.safetensors').read_bytes()).hexdigest()}  {name}.safetensors\n"
        for name in files
    ]
    assert found.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    unet = (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert found.legacy_hash == hashlib.sha256(unet[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]


def test_a_folder_is_a_model_of_the_models_folder_and_loads(folder: Path) -> None:
    assert list_models(folder.parent) == ["laid-out"]
    parts = load_components(resolve_model(folder.parent, "laid-out"), device="cpu", dtype=torch.float32)
    assert torch.equal(parts.unet.state_dict()["conv_in.weight"], zoo_modules()[0].conv_in.weight)
    assert parts.prediction_type == "epsilon"


def test_a_folder_and_a_file_are_merged(folder: Path, tmp_path: Path) -> None:
    other = write_random(tmp_path / "b.safetensors", 2)
    export_average([folder, other], tmp_path / "o.safetensors", metadata={}, dtype=torch.float32)
    written, a, b = (
        load_file(tmp_path / "o.safetensors"),
        single_file_tensors(*zoo_modules()),
        load_file(other),
    )
    assert torch.equal(written[FIRST], (a[FIRST] + b[FIRST]) / 2)
    assert torch.equal(written[vae_key := "first_stage_model.decoder.conv_in.weight"], a[vae_key])


def test_shards_and_the_names_of_old_are_read(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    whole = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(whole)
    halves = [dict(list(tensors.items())[::2]), dict(list(tensors.items())[1::2])]
    for number, half in enumerate(halves):
        save_file(half, copy / "unet" / f"shard-{number}.safetensors")
    whole.unlink()
    index = {"weight_map": {key: f"shard-{n}.safetensors" for n, half in enumerate(halves) for key in half}}
    (copy / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with open_checkpoint(copy) as file:
        assert torch.equal(file.tensor(FIRST), tensors["conv_in.weight"])
        assert UNET.keys() <= file.entries.keys()
    vae = load_file(copy / "vae" / "diffusion_pytorch_model.safetensors")
    new_to_old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    old = {}
    for key, tensor in vae.items():
        named = key
        for new_name, old_name in new_to_old.items():
            named = named.replace(new_name, old_name)
        old[named] = tensor
    assert old.keys() != vae.keys()
    save_file(old, tmp_path / "old.safetensors")
    with open_file(tmp_path / "old.safetensors") as file:
        origins = vae_origins({key: Origin(file, (key,)) for key in file.entries}, "emoji")
        assert origins.keys() == expected_tensors("emoji").vae.keys()
        query = "first_stage_model.decoder.mid.attn_1.q.weight"
        name = "decoder.mid_block.attentions.0.to_q.weight"
        assert torch.equal(origins[query].tensor()[:, :, 0, 0], vae[name])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: shutil.rmtree(f / "vae"), "has no weights of its vae"),
        (lambda f: (f / "model_index.json").unlink(), "is a directory; give a single-file checkpoint"),
        (lambda f: (f / "scheduler/scheduler_config.json").write_text("{"), "is no JSON"),
        (lambda f: (f / "text_encoder_2").mkdir(), "has no weights of its text_encoder_2"),
        (lambda f: save_file({"x": torch.zeros(1)}, f / "unet/diffusion_pytorch_model.safetensors"),
         "lacks its first convolution"),
    ],
)  # fmt: skip
def test_a_broken_folder_says_what_it_lacks(
    folder: Path, tmp_path: Path, break_it: Callable[[Path], object], message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    break_it(copy)
    with pytest.raises(InputError, match=message):
        inspect_checkpoint(copy)


def test_an_index_that_leads_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    index = copy / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text('{"weight_map": {"conv_in.weight": "../../secret.safetensors"}}')
    with pytest.raises(InputError, match="names no files beside it"):
        open_checkpoint(copy)


@pytest.mark.parametrize("projection", [False, True])
def test_open_clip_s_text_tower_is_the_inverse_of_diffusers_converter(projection: bool) -> None:
    """SD2's and SDXL's second text encoder, in small."""
    torch.manual_seed(3)
    config = CLIPTextConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=1, projection_dim=64
    )
    module = (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)
    state = dict(module.state_dict())
    names = {key.removeprefix("text_model."): key for key in state}
    file = CheckpointFile(
        Path("x"), {key: Entry(t.dtype, tuple(t.shape)) for key, t in state.items()}, {}, state.__getitem__,
        lambda: None,
    )  # fmt: skip
    tensors = {name: Origin(file, (key,)) for name, key in names.items()}
    prefix = "conditioner.embedders.1.model." if projection else "cond_stage_model.model."
    single = {key: origin.tensor() for key, origin in open_clip_origins(tensors, names, prefix).items()}
    back = convert_open_clip_checkpoint(module, dict(single), prefix=prefix)
    back = {key.removeprefix("text_model."): tensor for key, tensor in back.items()}
    assert back.keys() == names.keys()
    for name, key in names.items():
        assert torch.equal(back[name], state[key]), name


# --- EMA copies ---


def ema_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"model_ema." + key[len("model.") :].replace(".", ""): tensors[key] for key in UNET}


def test_every_ema_name_is_one_tensor_s(tmp_path: Path) -> None:
    keys = {key for architecture in ARCHITECTURES for key in expected_tensors(architecture).unet}
    assert len({ema_name(key) for key in keys}) == len(keys)
    assert ema_name(FIRST) == "model_ema.diffusion_modelinput_blocks00weight"


def test_a_file_with_ema_copies_alone_is_read_by_them(tmp_path: Path) -> None:
    tensors = random_tensors(1)
    rest = {key: tensor for key, tensor in tensors.items() if key not in UNET}
    write_checkpoint(
        tmp_path / "ema.safetensors",
        {**rest, **ema_copies(tensors), "model_ema.decay": torch.tensor(0.99)},
        {},
    )
    found = inspect_checkpoint(tmp_path / "ema.safetensors")
    assert (found.architecture, found.unet_from_ema, found.missing_keys) == ("emoji", True, [])
    with open_checkpoint(tmp_path / "ema.safetensors") as file:
        assert all(torch.equal(file.tensor(key), tensors[key]) for key in tensors)


def test_ema_copies_beside_the_unet_are_counted_and_not_used(tmp_path: Path) -> None:
    path = write_random(tmp_path / "both.safetensors", 1, changes=ema_copies(random_tensors(2)))
    found = inspect_checkpoint(path, statistics=False)
    assert (found.ema_keys, found.unet_from_ema) == (len(UNET), False)
    with open_checkpoint(path) as file:
        assert torch.equal(file.tensor(FIRST), random_tensors(1)[FIRST])


# --- precision and kinds ---


def test_mixed_precision_is_counted_and_merged_in_fp32(tmp_path: Path) -> None:
    mixed = {
        key: tensor.to((torch.float16, torch.bfloat16, torch.float32)[number % 3])
        for number, (key, tensor) in enumerate(random_tensors(1).items())
    }
    write_checkpoint(tmp_path / "mixed.safetensors", mixed, {})
    found = inspect_checkpoint(tmp_path / "mixed.safetensors", statistics=False)
    assert set(found.dtypes) == {"F16", "BF16", "F32"}
    other = write_random(tmp_path / "b.safetensors", 2)
    export_average(
        [tmp_path / "mixed.safetensors", other], tmp_path / "o.safetensors", metadata={}, dtype=torch.float32
    )
    written, b = load_file(tmp_path / "o.safetensors"), random_tensors(2)
    assert all(torch.equal(written[key], (mixed[key].float() + b[key]) / 2) for key in UNET)


@pytest.mark.parametrize(
    ("architecture", "channels", "kind"),
    [
        ("sd1", 9, "an inpainting model of SD1.x"),
        ("sd1", 8, "an instruct-pix2pix model of SD1.x"),
        ("sd2", 5, "a depth model of SD2.x"),
        ("sdxl", 9, "an inpainting model of SDXL"),
    ],
)
def test_what_takes_other_channels_is_refused_with_the_reason(
    tmp_path: Path, architecture: str, channels: int, kind: str
) -> None:
    path = write_header_only(tmp_path / "x.safetensors", architecture, {FIRST: (320, channels, 3, 3)})
    with pytest.raises(InputError, match=f"is {kind}: its UNet takes {channels} channels, not 4"):
        inspect_checkpoint(path, statistics=False)
