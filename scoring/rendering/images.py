"""Rendered images: are they images at all, and how they become files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scoring.errors import TrialFailed

# A channel that varies by less than one step of 8 bits is one colour.
_ONE_COLOUR = 1 / 255


def first_not_finite(rows: Tensor, names: Sequence[str]) -> str | None:
    """The name of the first row (N, ...) that holds a NaN or an infinity; None when all are finite."""
    finite = rows.detach().flatten(1).isfinite().all(dim=1).tolist()
    return next((name for name, good in zip(names, finite, strict=True) if not good), None)


def check_images(images: Tensor, names: Sequence[str]) -> None:
    """Raises TrialFailed for the first image that is black or of one colour.

    images: (N, 3, H, W) in [0, 1], finite. names: what each is called in the reason.
    """
    flat = images.detach().flatten(2).float()
    spread = (flat.amax(dim=2) - flat.amin(dim=2)).amax(dim=1).tolist()
    brightest = flat.amax(dim=2).amax(dim=1).tolist()
    for i, name in enumerate(names):
        if spread[i] < _ONE_COLOUR:
            raise TrialFailed(
                f"the image of {name} is {'black' if brightest[i] < _ONE_COLOUR else 'one colour'}"
            )


def to_pil(images: Tensor) -> list[Image.Image]:
    """(N, 3, H, W) in [0, 1] as 8-bit RGB images, rounded to the nearest step."""
    pixels = (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in pixels]


def from_pil(image: Image.Image) -> Tensor:
    """An image as (3, H, W) in [0, 1], float32: what `to_pil` made of it, rounded to 8 bits."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255
