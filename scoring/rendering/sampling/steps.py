"""What all algorithms share: the model they call, the noise they draw, and one ancestral step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from scoring.rendering.sampling.noise_source import NoiseSource

Model = Callable[[Tensor, Tensor], Tensor]
"""(x (N, C, h, w), sigma: 0-dim float64 on the CPU) -> the denoised image (N, C, h, w); one UNet call."""


class Algorithm(Protocol):
    """Latents `x` (N, C, h, w) at noise level `sigmas[0]` to latents at `sigmas[-1]`.

    sigmas: 1-d, falling, on the CPU; the last one may be 0. noise: what is added on the way. eta: 0..1, how
    much of it. All coefficients are Python floats, so that nothing waits for the device.
    """

    def __call__(
        self, model: Model, x: Tensor, sigmas: Tensor, *, noise: NoiseSource, eta: float
    ) -> Tensor: ...


def level(sigma: float) -> Tensor:
    """A noise level as a model takes it."""
    return torch.tensor(sigma, dtype=torch.float64)


def ancestral_step(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """(down, up): denoise from `sigma` down to `down`, then add noise `up` to be at `sigma_next`.

    down**2 + up**2 = sigma_next**2; eta 1 makes the step that of DDPM (Ho et al. 2020), eta 0 adds nothing.
    Source: k-diffusion's get_ancestral_step.
    """
    up = min(sigma_next, eta * sigma_next * math.sqrt(sigma**2 - sigma_next**2) / sigma)
    return math.sqrt(sigma_next**2 - up**2), up
