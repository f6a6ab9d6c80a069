"""The latent upscalers of hires fix, by the names that A1111 gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scoring.errors import InputError


@dataclass(frozen=True)
class LatentUpscaler:
    """What `torch.nn.functional.interpolate` is told."""

    mode: str
    antialias: bool = False


UPSCALERS: Mapping[str, LatentUpscaler] = {
    "Latent": LatentUpscaler("bilinear"),
    "Latent (antialiased)": LatentUpscaler("bilinear", antialias=True),
    "Latent (bicubic)": LatentUpscaler("bicubic"),
    "Latent (bicubic antialiased)": LatentUpscaler("bicubic", antialias=True),
    "Latent (nearest)": LatentUpscaler("nearest"),
    "Latent (nearest-exact)": LatentUpscaler("nearest-exact"),
}


def check_upscaler(name: str) -> str:
    """`name` when it is the name of an upscaler; raises InputError listing the known names."""
    if name not in UPSCALERS:
        raise InputError(
            f"unknown upscaler {name!r}; known upscalers: {', '.join(UPSCALERS)} "
            "(those that enlarge pixels, such as ESRGAN, are not there)"
        )
    return name
