"""Hires fix: how large the second pass is, and what it begins with.

As in A1111 (`StableDiffusionProcessingTxt2Img`, its `calculate_target_resolution` and `sample_hr_pass`).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import interpolate

from scoring.probes import Hires
from scoring.rendering.upscalers import UPSCALERS


class Size(NamedTuple):
    """Width and height."""

    width: int
    height: int


def enlarged_size(first: Size, hires: Hires) -> Size:
    """Pixels to which the first pass is enlarged, before it is cropped to what was asked for."""
    width, height = first
    wanted_width, wanted_height = hires.resize_x, hires.resize_y
    if not wanted_width and not wanted_height:
        return Size(int(width * hires.scale), int(height * hires.scale))
    if not wanted_height or width * wanted_height < wanted_width * height:
        return Size(wanted_width, wanted_width * height // width)
    return Size(wanted_height * width // height, wanted_height)


def final_latents(first: Size, hires: Hires, pixels_per_latent: int) -> Size:
    """The size of the second pass, in latents."""
    enlarged = enlarged_size(first, hires)
    excess = _excess(enlarged, hires, pixels_per_latent)
    return Size(
        enlarged.width // pixels_per_latent - excess.width,
        enlarged.height // pixels_per_latent - excess.height,
    )


def enlarge(latents: Tensor, first: Size, hires: Hires, pixels_per_latent: int) -> Tensor:
    """Latents (N, 4, h, w) of a first pass of `first` pixels to those that the second begins with."""
    width, height = enlarged_size(first, hires)
    upscaler = UPSCALERS[hires.upscaler]
    larger = interpolate(
        latents,
        size=(height // pixels_per_latent, width // pixels_per_latent),
        mode=upscaler.mode,
        antialias=upscaler.antialias,
    )
    excess = _excess(Size(width, height), hires, pixels_per_latent)
    top, left = excess.height // 2, excess.width // 2
    final = final_latents(first, hires, pixels_per_latent)
    return larger[:, :, top : top + final.height, left : left + final.width]


def _excess(enlarged: Size, hires: Hires, pixels_per_latent: int) -> Size:
    """What is cropped, in latents: only where both sides are asked for is there anything."""
    if not (hires.resize_x and hires.resize_y):
        return Size(0, 0)
    return Size(
        (enlarged.width - hires.resize_x) // pixels_per_latent,
        (enlarged.height - hires.resize_y) // pixels_per_latent,
    )
