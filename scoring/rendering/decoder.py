"""Latents to images, with one VAE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from scoring.errors import TrialFailed
from scoring.rendering.components import Components, dtype_name
from scoring.rendering.images import first_not_finite
from scoring.rendering.memory import DoesNotFit, Kind, Memory, halves

# Decoding needs far more memory an image than denoising: four images of 512x512 at once.
_PIXELS_AT_ONCE = 4 * 512 * 512
# With what a backward pass needs of them, which it computes anew, a quarter.
_PIXELS_AT_ONCE_BACKWARD = 512 * 512
# In latents. Smaller tiles see too little of the image to have its colours.
_SMALLEST_TILE = 16


class Decoder:
    """The VAE's half that makes images.

    What does not fit `memory` is decoded in smaller parts, and a single image in overlapping tiles that are
    blended: of half its size, or a quarter and so on where that does not fit either. Every tile is normalised
    by itself, so that colours may shift a little between tiles; all images of that size are decoded so from
    then on. A VAE in 16 bits that makes NaN of finite latents runs in float32 from then on, as in A1111: the
    VAEs of many models overflow in float16. note: is told so.
    """

    def __init__(self, components: Components, memory: Memory, note: Callable[[str], None]) -> None:
        self._vae: Any = components.vae
        self._factor = components.pixels_per_latent
        self._memory, self._note = memory, note
        self._tiles: dict[tuple[int, int], int] = {}

    def decode(self, latents: Tensor, names: list[str]) -> Tensor:
        """Latents (N, 4, h, w) of the images called `names` to images (N, 3, H, W), float32 in [0, 1].

        The latents must be finite. Where they carry a gradient, a backward pass decodes again part by part,
        so that it takes the memory of one part. Raises TrialFailed when the VAE makes NaN of them in float32
        too, and when a single image does not fit the memory.
        """
        pixels = _PIXELS_AT_ONCE_BACKWARD if _backward(latents) else _PIXELS_AT_ONCE
        at_once = max(1, pixels // (latents.shape[-1] * latents.shape[-2] * self._factor**2))
        starts = range(0, len(names), at_once)
        dtype = self._vae.dtype
        images = torch.cat(
            [self._part(latents[start : start + at_once], names[start : start + at_once]) for start in starts]
        )
        if _backward(latents) and self._vae.dtype != dtype:
            # It would decode the parts before in another dtype than they were.
            return self.decode(latents, names)
        return images

    def _part(self, latents: Tensor, names: list[str]) -> Tensor:
        height, width = latents.shape[-2:]
        tile = self._tiles.get((height, width))
        try:
            return self._attempted(latents, names, tile)
        except DoesNotFit:
            smaller = next((side for side in tile_sizes(height, width) if tile is None or side < tile), None)
            if smaller is None:
                raise
        self._tiles[height, width] = smaller
        self._note(
            f"a single image of {width * self._factor}x{height * self._factor} does not fit the memory to "
            f"decode; from now on it is decoded in tiles of {smaller * self._factor} pixels, which may shift "
            "its colours a little"
        )
        return self._part(latents, names)

    def _attempted(self, latents: Tensor, names: list[str], tile: int | None) -> Tensor:
        height, width = (self._factor * size for size in latents.shape[-2:])
        kind = Kind("decode" if tile is None else f"decode in tiles of {tile}", width, height, 1)
        images = self._memory.attempt(kind, names, lambda: self._finite(latents, names, tile))
        if images is None:
            pairs = zip(halves(latents), halves(names), strict=True)
            return torch.cat([self._part(some, called) for some, called in pairs])
        return (images.float() / 2 + 0.5).clamp(0, 1)

    def _finite(self, latents: Tensor, names: list[str], tile: int | None) -> Tensor:
        images = self._decode(latents, tile)
        broken = first_not_finite(images, names)
        if broken is not None and self._vae.dtype in (torch.float16, torch.bfloat16):
            dtype = dtype_name(self._vae.dtype)
            self._note(f"the VAE made NaN of {broken} in {dtype}; from now on it runs in float32")
            self._vae.float()
            images = self._decode(latents, tile)
            broken = first_not_finite(images, names)
        if broken is not None:
            raise TrialFailed(
                f"the VAE made NaN of the finite latents of {broken}, in float32; "
                "its weights are broken or belong to another kind of model: take a model with a sound VAE"
            )
        return images

    def _decode(self, latents: Tensor, tile: int | None) -> Tensor:
        if not _backward(latents):
            return self._decoded(latents, tile)
        images: Tensor = checkpoint(
            self._decoded, latents, tile, use_reentrant=False, preserve_rng_state=False
        )
        return images

    def _decoded(self, latents: Tensor, tile: int | None) -> Tensor:
        # Divided in the VAE's dtype: finite latents must not overflow on the way to it.
        scaled = latents.to(self._vae.dtype) / self._vae.config.scaling_factor
        if tile is None:
            decoded: Tensor = self._vae.decode(scaled).sample
            return decoded
        self._vae.tile_latent_min_size, self._vae.tile_sample_min_size = tile, tile * self._factor
        tiled: Tensor = self._vae.tiled_decode(scaled).sample
        return tiled


def _backward(latents: Tensor) -> bool:
    return torch.is_grad_enabled() and latents.requires_grad


def tile_sizes(height: int, width: int) -> Iterator[int]:
    """Sides in latents of ever smaller tiles for latents of this size: its half, quarter and so on.

    They are multiples of 4, so that the quarter by which tiles overlap is whole.
    """
    side = max(height, width)
    while (side := -(-side // 8) * 4) >= _SMALLEST_TILE and side < max(height, width):
        yield side
