"""Latents to images, with one VAE."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scoring.rendering.components import Components
from scoring.rendering.memory import Kind, Memory, halves

# Decoding needs far more memory an image than denoising: four images of 512x512 at once.
_PIXELS_AT_ONCE = 4 * 512 * 512


class Decoder:
    """The VAE's half that makes images. What does not fit `memory` is decoded in smaller parts."""

    def __init__(self, components: Components, memory: Memory) -> None:
        self._vae: Any = components.vae
        self._factor = components.pixels_per_latent
        self._memory = memory

    def decode(self, latents: Tensor, names: list[str]) -> Tensor:
        """Latents (N, 4, h, w) of the images called `names` to images (N, 3, H, W), float32 in [0, 1].

        A NaN stays one. Raises TrialFailed when a single image does not fit the memory.
        """
        at_once = max(1, _PIXELS_AT_ONCE // (latents.shape[-1] * latents.shape[-2] * self._factor**2))
        starts = range(0, len(names), at_once)
        return torch.cat(
            [self._part(latents[start : start + at_once], names[start : start + at_once]) for start in starts]
        )

    def _part(self, latents: Tensor, names: list[str]) -> Tensor:
        height, width = (self._factor * size for size in latents.shape[-2:])
        images = self._memory.attempt(Kind("decode", width, height, 1), names, lambda: self._images(latents))
        if images is None:
            pairs = zip(halves(latents), halves(names), strict=True)
            return torch.cat([self._part(some, called) for some, called in pairs])
        return images

    def _images(self, latents: Tensor) -> Tensor:
        scaled = (latents / self._vae.config.scaling_factor).to(self._vae.dtype)
        decoded: Tensor = self._vae.decode(scaled).sample
        return (decoded.float() / 2 + 0.5).clamp(0, 1)
