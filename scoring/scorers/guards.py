"""Guards: statistics of an image that need no weights. They are watched, never optimised: what raises them
without end is noise, glare or an empty page.

The luma is that of ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from scoring.errors import InputError
from scoring.scorers.base import ScorerSpec


class Guard:
    """One statistic of every image. Prompts are ignored, and no gradient is promised."""

    differentiable = False

    def __init__(self, name: str, statistic: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self.name = name
        self._statistic = statistic
        self._device = device

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:  # noqa: ARG002
        return self._statistic(images.to(self._device, torch.float32))


def sharpness(images: Tensor) -> Tensor:
    """Variance of the Laplacian of the luma, in grey levels (of 255) squared: (N,), 0 and up.

    images: (N, 3, H, W) in [0, 1], at least 2 x 2. The Laplacian is the sum of the four neighbours less four
    times the pixel; at the border the image is mirrored without repeating its edge, as OpenCV does.
    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.
    """
    grey = pad(255 * luma(images).unsqueeze(1), (1, 1, 1, 1), mode="reflect")
    kernel = grey.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3)
    return conv2d(grey, kernel).flatten(1).var(dim=1, correction=0)


def contrast(images: Tensor) -> Tensor:
    """Standard deviation of the luma: (N,), 0..0.5 for images (N, 3, H, W) in [0, 1].

    Source: Peli, "Contrast in complex images", 1990 (RMS contrast).
    """
    return luma(images).flatten(1).std(dim=1, correction=0)


def colourfulness(images: Tensor) -> Tensor:
    """How colourful images (N, 3, H, W) in [0, 1] are: (N,), 0 for grey, about 109 and up for extreme colour.

    With rg = R - G and yb = (R + G) / 2 - B on 0..255: the length of the two standard deviations, and 0.3 of
    the length of the two means. Source: Hasler and Süsstrunk, "Measuring colourfulness in natural images",
    2003.
    """
    red, green, blue = (255 * images).flatten(2).unbind(1)
    rg, yb = red - green, (red + green) / 2 - blue
    spread = torch.hypot(rg.std(dim=1, correction=0), yb.std(dim=1, correction=0))
    return spread + 0.3 * torch.hypot(rg.mean(dim=1), yb.mean(dim=1))


def brightness(images: Tensor) -> Tensor:
    """Mean of the luma: (N,), 0..1 for images (N, 3, H, W) in [0, 1]."""
    return luma(images).flatten(1).mean(dim=1)


def luma(images: Tensor) -> Tensor:
    """(N, H, W) of images (N, 3, H, W)."""
    red, green, blue = images.unbind(1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


GUARDS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sharpness": sharpness,
    "contrast": contrast,
    "colourfulness": colourfulness,
    "brightness": brightness,
}


def create(spec: ScorerSpec, device: torch.device) -> Guard:
    """The entry point of every guard. Raises InputError for a name that is none."""
    if spec.scorer not in GUARDS:
        raise InputError(f"no guard {spec.scorer!r}; the guards: {', '.join(GUARDS)}")
    return Guard(spec.scorer, GUARDS[spec.scorer], device)
