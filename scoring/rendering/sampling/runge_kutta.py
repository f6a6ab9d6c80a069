"""One-step methods: Euler, Heun and DPM-Solver-2, with their ancestral forms, LCM and Restart.

All solve dx/dsigma = (x - denoised) / sigma, Karras et al. (2022), "Elucidating the Design Space of
Diffusion-Based Generative Models". Sources: k-diffusion's sampling.py; A1111's sd_samplers_extra.py and
sd_samplers_lcm.py.
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor

from scoring.rendering.sampling.noise_source import NoiseSource
from scoring.rendering.sampling.schedules import karras_between
from scoring.rendering.sampling.steps import Model, ancestral_step, level


def sample_euler(model: Model, x: Tensor, sigmas: Tensor, **_: object) -> Tensor:
    """Euler: Algorithm 2 of Karras et al. (2022) without its second order (k-diffusion's sample_euler)."""
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        slope = (x - model(x, level(sigma))) / sigma
        x = x + slope * (sigma_next - sigma)
    return x


def sample_euler_ancestral(
    model: Model, x: Tensor, sigmas: Tensor, *, noise: NoiseSource, eta: float
) -> Tensor:
    """Euler a: Euler steps with fresh noise after each (k-diffusion's sample_euler_ancestral).

    It is DDIM too, Song et al. (2021), "Denoising Diffusion Implicit Models", eq. 12 and 16 with its sigma
    scaled by eta: in terms of x / sqrt(alpha_bar) that is this step.
    """
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        down, up = ancestral_step(sigma, sigma_next, eta)
        slope = (x - model(x, level(sigma))) / sigma
        x = x + slope * (down - sigma)
        if up > 0:
            x = x + noise.next() * up
    return x


def sample_heun(model: Model, x: Tensor, sigmas: Tensor, **_: object) -> Tensor:
    """Heun: Algorithm 2 of Karras et al. (2022) without churn (k-diffusion's sample_heun)."""
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        x = _heun_step(model, x, sigma, sigma_next)
    return x


def _heun_step(model: Model, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    slope = (x - model(x, level(sigma))) / sigma
    ahead = x + slope * (sigma_next - sigma)
    if sigma_next == 0:
        return ahead
    slope_ahead = (ahead - model(ahead, level(sigma_next))) / sigma_next
    return x + (slope + slope_ahead) / 2 * (sigma_next - sigma)


def sample_dpm_2(model: Model, x: Tensor, sigmas: Tensor, **_: object) -> Tensor:
    """DPM2: the midpoint method in log sigma, DPM-Solver-2 (Lu et al. 2022; k-diffusion's sample_dpm_2)."""
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        x = _midpoint_step(model, x, sigma, sigma_next)
    return x


def sample_dpm_2_ancestral(
    model: Model, x: Tensor, sigmas: Tensor, *, noise: NoiseSource, eta: float
) -> Tensor:
    """DPM2 a: DPM2 with fresh noise after each step (k-diffusion's sample_dpm_2_ancestral)."""
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        down, up = ancestral_step(sigma, sigma_next, eta)
        x = _midpoint_step(model, x, sigma, down)
        if up > 0:
            x = x + noise.next() * up
    return x


def _midpoint_step(model: Model, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    slope = (x - model(x, level(sigma))) / sigma
    if sigma_next == 0:
        return x + slope * (sigma_next - sigma)
    middle = math.sqrt(sigma * sigma_next)
    halfway = x + slope * (middle - sigma)
    slope_halfway = (halfway - model(halfway, level(middle))) / middle
    return x + slope_halfway * (sigma_next - sigma)


def sample_lcm(model: Model, x: Tensor, sigmas: Tensor, *, noise: NoiseSource, **_: object) -> Tensor:
    """LCM: Luo et al. (2023), "Latent Consistency Models", Algorithm 3 (A1111's sample_lcm).

    The model's skip of c_skip(t) x is left out: at the times that LCM uses it is below 1e-5.
    """
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        x = model(x, level(sigma))
        if sigma_next > 0:
            x = x + noise.next() * sigma_next
    return x


def sample_restart(model: Model, x: Tensor, sigmas: Tensor, *, noise: NoiseSource, **_: object) -> Tensor:
    """Restart: Xu et al. (2023), "Restart Sampling for Improving Generative Processes".

    Heun steps; where noise was raised again, as much is added as lies between the levels. Source: A1111's
    restart_sampler.
    """
    at = float(sigmas[0])
    for sigma, sigma_next in restart_steps(sigmas):
        if sigma > at:
            x = x + noise.next() * math.sqrt(sigma**2 - at**2)
        x = _heun_step(model, x, sigma, sigma_next)
        at = sigma_next
    return x


def restart_steps(sigmas: Tensor) -> list[tuple[float, float]]:
    """The steps (sigma, sigma_next) of Restart: from 20 steps on, some are spent on going back to 2 from 0.1.

    From 36 steps on it goes back twice, with a quarter of the steps each. The levels are then Karras' between
    the first and the last of `sigmas`.
    """
    steps = len(sigmas) - 1
    if steps < 20:
        return list(pairwise(sigmas.tolist()))
    again, times = (9, 1) if steps < 36 else (steps // 4, 2)
    levels = karras_between(float(sigmas[0]), float(sigmas[-2]), steps - again * times)
    low = int((levels - 0.1).abs().argmin())
    high = int((levels - 2).abs().argmin())
    plain = list(pairwise(levels.tolist()))
    if low == 0 or high >= low:
        return plain
    back = karras_between(float(levels[high]), float(levels[low]), again + 1)[:-1]
    return plain[:low] + list(pairwise(back.tolist())) * times + plain[low:]
