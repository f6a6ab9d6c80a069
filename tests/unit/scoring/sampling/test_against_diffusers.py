"""The algorithms against diffusers' schedulers at equal settings, over the schedulers' own noise levels."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from scoring.rendering.sampling.levels import NoiseLevels
from scoring.rendering.sampling.noise_source import StepNoise
from scoring.rendering.sampling.plan import ALGORITHMS, plan
from tests.unit.scoring.models import SCHEDULER

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")  # diffusers

K: dict[str, Any] = {"timestep_spacing": "linspace"}
LDM: dict[str, Any] = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}
MULTISTEP = {"solver_order": 2, "solver_type": "midpoint", "final_sigmas_type": "zero"}
KARRAS = {"use_karras_sigmas": True}
STEPS = 12
NO_NOISE = StepNoise(lambda: torch.zeros(()))


def denoise(x: Tensor, sigma: float) -> Tensor:
    return x * 0.6 / (0.6 + sigma**2) + 0.3 * torch.tanh(x / (1 + sigma)) * math.sin(sigma)


def noise() -> Tensor:
    return torch.randn(2, 4, 5, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def ours(name: str, x: Tensor, sigmas: Tensor) -> Tensor:
    return ALGORITHMS[name](lambda x, s: denoise(x, float(s)), x, sigmas, noise=NO_NOISE, eta=0.0)


@pytest.mark.parametrize("options", [K, {**K, **KARRAS}])
@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        ("Euler", "EulerDiscreteScheduler"),
        ("Heun", "HeunDiscreteScheduler"),
        ("LMS", "LMSDiscreteScheduler"),
        ("DPM2", "KDPM2DiscreteScheduler"),
    ],
)
def test_samplers_of_images_plus_noise(name: str, scheduler: str, options: dict[str, Any]) -> None:
    theirs = getattr(diffusers, scheduler)(**SCHEDULER, **options)
    theirs.set_timesteps(STEPS)
    twice = name in ("Heun", "DPM2")
    sigmas = theirs.sigmas.double()
    if twice:  # each level but the first and the last stands there twice
        sigmas = torch.cat([sigmas[:1], sigmas[1::2]])[: STEPS + 1]
        sigmas[-1] = 0
    x = noise() * sigmas[0]
    start = x
    for t in theirs.timesteps:
        scaled = theirs.scale_model_input(x, t)
        sigma = math.sqrt(((x / scaled).median() ** 2 - 1).item())  # it divides by sqrt(sigma**2 + 1)
        x = theirs.step((x - denoise(x, sigma)) / sigma, t, x).prev_sample
    torch.testing.assert_close(ours(name, start, sigmas), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "scheduler", "options"),
    [
        ("DPM++ 2M", "DPMSolverMultistepScheduler", {**K, **MULTISTEP}),
        ("DPM++ 2M", "DPMSolverMultistepScheduler", {**K, **MULTISTEP, **KARRAS}),
        (
            "UniPC",
            "UniPCMultistepScheduler",
            {**K, "solver_order": 3, "solver_type": "bh1", "final_sigmas_type": "sigma_min"},
        ),
    ],
)
def test_samplers_of_scaled_images(name: str, scheduler: str, options: dict[str, Any]) -> None:
    theirs = getattr(diffusers, scheduler)(**SCHEDULER, **options)
    theirs.set_timesteps(STEPS)
    sigmas = theirs.sigmas.double()
    z = noise()
    start = z
    for i, t in enumerate(theirs.timesteps):
        sigma = float(sigmas[i])
        scale = math.sqrt(1 + sigma**2)
        eps = (z * scale - denoise(z * scale, sigma)) / sigma
        z = theirs.step(eps, t, z).prev_sample
    x = ours(name, start * torch.sqrt(1 + sigmas[0] ** 2), sigmas)
    torch.testing.assert_close(x / torch.sqrt(1 + sigmas[-1] ** 2), z, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "scheduler", "options"),
    [
        ("DDIM", "DDIMScheduler", {**LDM, "clip_sample": False}),
        ("PLMS", "PNDMScheduler", {**LDM, "skip_prk_steps": True}),
    ],
)
def test_samplers_with_timesteps_of_their_own(name: str, scheduler: str, options: dict[str, Any]) -> None:
    theirs = getattr(diffusers, scheduler)(**SCHEDULER, **options)
    theirs.set_timesteps(STEPS)
    levels = NoiseLevels.of(SCHEDULER)
    times = sorted({int(t) for t in theirs.timesteps}, reverse=True)
    sigmas = levels.sigmas[[*times, 0]]  # diffusers' last step ends at time 0
    z = noise()
    start = z
    for t in theirs.timesteps:
        sigma = float(levels.sigmas[int(t)])
        scale = math.sqrt(1 + sigma**2)
        z = theirs.step((z * scale - denoise(z * scale, sigma)) / sigma, int(t), z).prev_sample
    x = ours(name, start * torch.sqrt(1 + sigmas[0] ** 2), sigmas)
    torch.testing.assert_close(x / torch.sqrt(1 + sigmas[-1] ** 2), z, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [2, 10, 25])
@pytest.mark.parametrize(
    ("schedule", "options"),
    [("Uniform", {}), ("Karras", KARRAS), ("Exponential", {"use_exponential_sigmas": True})],
)
def test_the_schedules_that_diffusers_has(schedule: str, options: dict[str, Any], steps: int) -> None:
    theirs = diffusers.EulerDiscreteScheduler(**SCHEDULER, **K, **options)
    theirs.set_timesteps(steps)
    found = plan("Euler", schedule).first_pass(NoiseLevels.of(SCHEDULER), steps)
    # diffusers interpolates the uniform ones linearly between training steps
    torch.testing.assert_close(found.sigmas, theirs.sigmas.double(), rtol=1e-4, atol=1e-4)
