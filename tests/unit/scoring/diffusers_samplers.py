"""The samplers of A1111 that diffusers has too, with the settings that make them the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from torch import Tensor

from scoring.rendering.components import Components

_K: Mapping[str, object] = {"timestep_spacing": "linspace"}
_KARRAS: Mapping[str, object] = {"use_karras_sigmas": True}
_DPMPP_2M: Mapping[str, object] = {
    **_K,
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "final_sigmas_type": "zero",
}
SCHEDULERS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "Euler": ("EulerDiscreteScheduler", _K),
    "Euler a": ("EulerAncestralDiscreteScheduler", _K),
    "Heun": ("HeunDiscreteScheduler", _K),
    "LMS": ("LMSDiscreteScheduler", _K),
    "LMS Karras": ("LMSDiscreteScheduler", {**_K, **_KARRAS}),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {**_DPMPP_2M, **_KARRAS}),
}
EXACT = tuple(name for name in SCHEDULERS if not name.startswith("DPM++"))
"""Those in which both tell the UNet the same times; diffusers rounds those of DPM++ to training steps."""
_TRAINING = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")


def make_scheduler(sampler: str, components: Components) -> Any:
    """diffusers' scheduler for one batch; most remember the steps before."""
    name, options = SCHEDULERS[sampler]
    trained = {key: components.scheduler_config[key] for key in _TRAINING}
    return getattr(diffusers, name)(prediction_type=components.prediction_type, **trained, **options)


def first_noise(sampler: str, scheduler: Any, noise: Tensor) -> Tensor:
    """What to give a pipeline for the noise that A1111 begins with.

    Both multiply it, k-diffusion by its first sigma; schedulers whose latents keep their variance take the
    share of the noise in it for 1, which it nearly is.
    """
    if not sampler.startswith("DPM++"):
        return noise
    sigma = float(scheduler.sigmas[0])
    return noise * (sigma / math.sqrt(1 + sigma**2))


def seeded(seed: int, shape: tuple[int, ...]) -> tuple[Tensor, torch.Generator]:
    """Noise of a shape, and its generator for what is drawn later."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator), generator
