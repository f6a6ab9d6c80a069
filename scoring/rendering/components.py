"""The parts of a checkpoint that make an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from scoring.errors import InputError

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

PredictionType = Literal["epsilon", "v_prediction"]


@dataclass
class Components:
    """A checkpoint of the SD1 or SD2 kind as diffusers modules.

    prediction_type: what the UNet was trained to predict, the noise or the velocity.
    scheduler_config: a diffusers scheduler config; only what the model was trained with is read from it
        (betas, number of training steps, zero terminal SNR).
    Raises InputError for an SDXL UNet and for an unknown prediction type.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    prediction_type: PredictionType
    scheduler_config: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise InputError(
                f"unknown prediction type {self.prediction_type!r}; give 'epsilon' or 'v_prediction'"
            )
        if self.unet.config.addition_embed_type is not None:
            raise InputError(
                "this UNet wants size and pooled-text conditions beside the prompt (SDXL); "
                "only SD1 and SD2 checkpoints can be rendered so far"
            )

    @property
    def pixels_per_latent(self) -> int:
        """How many pixels of the image one latent is wide and high: 8 for Stable Diffusion."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))


def dtype_name(dtype: torch.dtype) -> str:
    """`float16`: a dtype as users write it."""
    return str(dtype).removeprefix("torch.")
