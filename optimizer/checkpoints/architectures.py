"""The architectures we know: their configs (diffusers layout, shipped with us) and their tensors."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from optimizer.blocks import BLOCKS, SDXL_BLOCKS
from optimizer.checkpoints.names import (
    CLIP_PREFIX,
    clip_names,
    ldm_vae_tensor,
    open_clip_shapes,
    unet_names,
    vae_names,
)
from scoring.errors import InputError

Architecture = Literal["sd1", "sd2", "sdxl", "emoji"]
PredictionType = Literal["epsilon", "v_prediction"]
Shapes = dict[str, tuple[int, ...]]

ARCHITECTURES: tuple[Architecture, ...] = ("sd1", "sd2", "sdxl", "emoji")
TITLES: dict[str, str] = {"sd1": "SD1.x", "sd2": "SD2.x", "sdxl": "SDXL", "emoji": "the emoji zoo"}

_FOLDER = Path(__file__).parent.parent / "architectures"
OPEN_CLIP_PREFIXES = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}
"""Architecture -> what begins the keys of a text encoder that open_clip wrote."""
CLIP_PREFIXES = {
    "sd1": CLIP_PREFIX,
    "emoji": CLIP_PREFIX,
    "sdxl": "conditioner.embedders.0.transformer.text_model.",
}
"""The same for those that transformers wrote; SDXL has one of each."""

# Real files hold these beside the model and nothing is wrong with them: the noise schedule, what older
# transformers saved, and the parts of open_clip's tower that no rendering uses.
_HARMLESS = re.compile(
    r"(betas|alphas_cumprod(_prev)?|(sqrt|log)_.*alphas_cumprod|sqrt_recip_alphas|sqrt_recipm1_alphas_cumprod"
    r"|posterior_.*|logvar|global_step|v_pred|ztsnr|denoiser\.sigmas"
    r"|.*\.position_ids|.*\.model\.(logit_scale|text_projection|attn_mask)|cond_stage_model\.(logit_scale"
    r"|text_projection)|cond_stage_model\.model\.transformer\.resblocks\.23\..*)"
)


@dataclass(frozen=True)
class Expected:
    """LDM key -> shape of every tensor that a checkpoint of one architecture must have, part by part."""

    unet: Shapes
    vae: Shapes
    text: Shapes

    @property
    def all(self) -> Shapes:
        return {**self.unet, **self.vae, **self.text}


def config_folder(architecture: str) -> Path:
    """The folder of diffusers configs of an architecture; InputError where there is none."""
    if architecture not in ARCHITECTURES:
        raise InputError(f"unknown architecture {architecture!r}; known are {', '.join(ARCHITECTURES)}")
    return _FOLDER / architecture


def config(architecture: str, part: str) -> dict[str, Any]:
    """The config of `unet`, `vae`, `text_encoder`, `text_encoder_2` or `scheduler`."""
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    return cast("dict[str, Any]", json.loads((config_folder(architecture) / part / name).read_text()))


def blocks_of(architecture: str) -> tuple[str, ...]:
    """The blocks of an architecture, in our order: 27, or SDXL's 22."""
    config_folder(architecture)
    return SDXL_BLOCKS if architecture == "sdxl" else BLOCKS


def build_unet(architecture: str) -> UNet2DConditionModel:
    """A UNet on the meta device: shapes without memory."""
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config(architecture, "unet"))


def build_vae(architecture: str) -> AutoencoderKL:
    """A VAE on the meta device."""
    with torch.device("meta"):
        return AutoencoderKL.from_config(config(architecture, "vae"))


def build_text_encoder(architecture: str, part: str = "text_encoder") -> nn.Module:
    """A text encoder on the meta device; SDXL has a second one, `text_encoder_2`."""
    values = config(architecture, part)
    with torch.device("meta"):
        if values["architectures"] == ["CLIPTextModelWithProjection"]:
            return cast("nn.Module", CLIPTextModelWithProjection(CLIPTextConfig(**values)))
        return cast("nn.Module", CLIPTextModel(CLIPTextConfig(**values)))


@lru_cache
def expected_tensors(architecture: str) -> Expected:
    """What a single-file checkpoint of the architecture must hold."""
    unet, vae = build_unet(architecture), build_vae(architecture)
    vae_keys = vae_names(vae)
    return Expected(
        unet=_shapes(unet, unet_names(unet)),
        vae={
            vae_keys[name]: tuple(ldm_vae_tensor(vae_keys[name], tensor).shape)
            for name, tensor in vae.state_dict().items()
        },
        text=_text_shapes(architecture),
    )


def is_harmless_extra(key: str) -> bool:
    """Whether a key that the architecture does not ask for is one that such files commonly hold."""
    return _HARMLESS.fullmatch(key) is not None


@lru_cache
def signatures() -> dict[tuple[int, int], Architecture]:
    """(width of the UNet's first convolution, width of its text conditioning) -> architecture."""
    found: dict[tuple[int, int], Architecture] = {}
    for architecture in ARCHITECTURES:
        unet = config(architecture, "unet")
        found[unet["block_out_channels"][0], unet["cross_attention_dim"]] = architecture
    return found


def _text_shapes(architecture: str) -> Shapes:
    if architecture == "sd2":
        return _open_clip(architecture, "text_encoder")
    encoder = build_text_encoder(architecture)
    if architecture == "sdxl":
        return {
            **_shapes(encoder, clip_names(encoder, CLIP_PREFIXES["sdxl"])),
            **_open_clip(architecture, "text_encoder_2"),
        }
    return _shapes(encoder, clip_names(encoder, CLIP_PREFIXES[architecture]))


def _open_clip(architecture: str, part: str) -> Shapes:
    tensors = build_text_encoder(architecture, part).state_dict()
    prefix = OPEN_CLIP_PREFIXES[architecture]
    shapes = open_clip_shapes({key: tensor.shape for key, tensor in tensors.items()})
    return {prefix + key: shape for key, shape in shapes.items()}


def _shapes(module: nn.Module, names: dict[str, str]) -> Shapes:
    return {names[name]: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
