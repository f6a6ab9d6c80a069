"""A single-file checkpoint into diffusers modules, offline: configs and vocabulary ship with us."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor, nn

from optimizer.checkpoints.architectures import (
    TITLES,
    Architecture,
    Shapes,
    build_text_encoder,
    build_unet,
    build_vae,
    config,
    config_folder,
    expected_tensors,
)
from optimizer.checkpoints.bare import open_component
from optimizer.checkpoints.inspection import find_architecture
from optimizer.checkpoints.opening import open_checkpoint
from optimizer.checkpoints.parts import Component, check_component
from optimizer.checkpoints.prediction import find_prediction, parse_prediction_type
from optimizer.checkpoints.reading import CheckpointFile
from optimizer.checkpoints.tokenizer import build_tokenizer
from scoring.errors import InputError
from scoring.rendering.components import Components


def load_components(
    path: Path,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    prediction_type: str | None = None,
) -> Components:
    """UNet, VAE, text encoder and tokenizer of a checkpoint, in `dtype` on `device`, ready to render.

    The modules are in eval mode and their parameters want no gradient. Raises InputError for a file that is
    broken, incomplete or of an architecture that cannot be rendered.
    """
    with open_checkpoint(path) as file:
        architecture = find_architecture(file)
        if architecture == "sdxl":
            raise InputError(f"{file.path.name} is SDXL, which cannot be rendered yet; use SD1.x or SD2.x")
        prediction = find_prediction(
            architecture, file.path.stem, file.metadata, file.entries.keys(), prediction_type
        )
        unet = _unet(file, architecture, device, dtype)
        vae = _vae(file, architecture, device, dtype)
        text_encoder = _text_encoder(file, architecture, device, dtype)
    return Components(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=build_tokenizer(architecture),
        prediction_type=prediction.type,
        scheduler_config=scheduler_config(architecture, prediction.type),
    )


def load_unet(path: Path, *, device: torch.device | str, dtype: torch.dtype) -> UNet2DConditionModel:
    """The UNet of a checkpoint alone, SDXL too."""
    with open_checkpoint(path) as file:
        return _unet(file, find_architecture(file), device, dtype)


def load_component(
    path: Path,
    component: Component,
    architecture: Architecture,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
) -> nn.Module:
    """One component of a checkpoint, or in a file of its own, as `load_components` makes it.

    architecture: SD1.x, SD2.x or the zoo. Raises InputError for a file that lacks the component, or holds
    another architecture's.
    """
    with open_component(path) as file:
        check_component(file, component, architecture)
        return _MODULES[component](file, architecture, device, dtype)


def scheduler_config(architecture: str, prediction_type: str) -> dict[str, object]:
    """The noise schedule of an architecture as a diffusers scheduler config."""
    return {**config(architecture, "scheduler"), "prediction_type": parse_prediction_type(prediction_type)}


def write_pipeline_config(architecture: str, out_dir: Path, prediction_type: str | None = None) -> None:
    """Write the folder that `StableDiffusionPipeline.from_single_file(file, config=out_dir)` needs offline.

    A `save_pretrained` folder without weights: model index, configs, scheduler (with the prediction type: the
    architecture's usual unless told) and tokenizer. SD1.x, SD2.x and the zoo.
    """
    if architecture == "sdxl":
        raise InputError("no pipeline config is written for SDXL yet; use SD1.x or SD2.x")
    usual = str(config(architecture, "scheduler")["prediction_type"])
    scheduler = scheduler_config(architecture, prediction_type or usual)
    for part in ("unet", "vae", "text_encoder"):
        (out_dir / part).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(config_folder(architecture) / part / "config.json", out_dir / part / "config.json")
    (out_dir / "scheduler").mkdir(exist_ok=True)
    _write_json(out_dir / "scheduler" / "scheduler_config.json", scheduler)
    build_tokenizer(architecture).save_pretrained(out_dir / "tokenizer")
    _write_json(
        out_dir / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", scheduler["_class_name"]],
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
        },
    )


def _read(
    file: CheckpointFile, shapes: Shapes, device: torch.device | str, dtype: torch.dtype
) -> dict[str, Tensor]:
    missing = [key for key in shapes if key not in file.entries]
    if missing:
        raise InputError(
            f"{file.path.name} lacks {missing[0]} ({len(missing)} of {len(shapes)} tensors of this part are "
            f"missing); use a complete {TITLES[find_architecture(file)]} checkpoint"
        )
    # Copied: a parameter must not change or vanish with the file.
    return {key: file.tensor(key).to(device, dtype, copy=True) for key in shapes}


def _unet(
    file: CheckpointFile, architecture: Architecture, device: torch.device | str, dtype: torch.dtype
) -> UNet2DConditionModel:
    unet = build_unet(architecture)
    tensors = _read(file, expected_tensors(architecture).unet, device, dtype)
    _fill(unet, convert_ldm_unet_checkpoint(tensors, unet.config))
    return unet


def _vae(
    file: CheckpointFile, architecture: Architecture, device: torch.device | str, dtype: torch.dtype
) -> AutoencoderKL:
    vae = build_vae(architecture)
    tensors = _read(file, expected_tensors(architecture).vae, device, dtype)
    _fill(vae, convert_ldm_vae_checkpoint(tensors, vae.config))
    return vae


def _text_encoder(
    file: CheckpointFile, architecture: Architecture, device: torch.device | str, dtype: torch.dtype
) -> nn.Module:
    text_encoder = build_text_encoder(architecture)
    tensors = _read(file, expected_tensors(architecture).text, device, dtype)
    _fill(text_encoder, _text_state(text_encoder, architecture, tensors))
    return text_encoder


_MODULES: dict[Component, Callable[..., nn.Module]] = {
    "unet": _unet,
    "text_encoder": _text_encoder,
    "vae": _vae,
}


def _text_state(
    text_encoder: nn.Module, architecture: Architecture, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    if architecture == "sd2":
        state = convert_open_clip_checkpoint(text_encoder, tensors)
    else:
        state = convert_ldm_clip_checkpoint(tensors)
    return {key.removeprefix("text_model."): tensor for key, tensor in state.items()}


def _fill(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    module.load_state_dict(state, strict=True, assign=True)
    _make_position_ids(module, next(module.parameters()).device)
    module.eval().requires_grad_(False)


def _make_position_ids(module: nn.Module, device: torch.device) -> None:
    # A buffer that no file holds, so a module made on the meta device has none yet.
    for name, buffer in list(module.named_buffers()):
        if not name.endswith("position_ids"):
            raise RuntimeError(f"do not know how to make the buffer {name} of {type(module).__name__}")
        owner = module.get_submodule(name.rpartition(".")[0])
        positions = torch.arange(buffer.shape[-1], device=device).expand(1, -1)
        owner.register_buffer("position_ids", positions, persistent=False)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
