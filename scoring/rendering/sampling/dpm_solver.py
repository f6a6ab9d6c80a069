"""DPM-Solver++ in its forms, and DPM-Solver-fast.

Sources: Lu et al. (2022), "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
and "DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps";
k-diffusion's sampling.py. With sigma = exp(-t), a step is h = log(sigma / sigma_next).
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor

from scoring.rendering.sampling.noise_source import NoiseSource
from scoring.rendering.sampling.steps import Model, ancestral_step, level


def sample_dpmpp_2s_ancestral(
    model: Model, x: Tensor, sigmas: Tensor, *, noise: NoiseSource, eta: float
) -> Tensor:
    """DPM++ 2S a: DPM-Solver++(2S) with fresh noise after each step (sample_dpmpp_2s_ancestral)."""
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        denoised = model(x, level(sigma))
        down, up = ancestral_step(sigma, sigma_next, eta)
        if down > 0:
            middle = math.sqrt(sigma * down)
            halfway = _towards(x, denoised, middle / sigma)
            denoised = model(halfway, level(middle))
        x = _towards(x, denoised, down / sigma)
        if up > 0:
            x = x + noise.next() * up
    return x


def sample_dpmpp_2m(model: Model, x: Tensor, sigmas: Tensor, **_: object) -> Tensor:
    """DPM++ 2M: DPM-Solver++(2M), Algorithm 2 of Lu et al. (sample_dpmpp_2m)."""
    before: Tensor | None = None
    h_before = math.nan
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        denoised = model(x, level(sigma))
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        towards = denoised
        if before is not None:
            towards = denoised + (denoised - before) * (h / h_before / 2)
        x = _towards(x, towards, sigma_next / sigma)
        before, h_before = denoised, h
    return x


def sample_dpmpp_sde(model: Model, x: Tensor, sigmas: Tensor, *, noise: NoiseSource, eta: float) -> Tensor:
    """DPM++ SDE: stochastic DPM-Solver++ of second order with its middle halfway (sample_dpmpp_sde)."""
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        denoised = model(x, level(sigma))
        if sigma_next == 0:
            return denoised
        middle = math.sqrt(sigma * sigma_next)
        down, up = ancestral_step(sigma, middle, eta)
        halfway = _towards(x, denoised, down / sigma)
        if up > 0:
            halfway = halfway + noise.between(sigma, middle) * up
        denoised_halfway = model(halfway, level(middle))
        down, up = ancestral_step(sigma, sigma_next, eta)
        x = _towards(x, denoised_halfway, down / sigma)
        if up > 0:
            x = x + noise.between(sigma, sigma_next) * up
    return x


def sample_dpmpp_2m_sde(model: Model, x: Tensor, sigmas: Tensor, *, noise: NoiseSource, eta: float) -> Tensor:
    """DPM++ 2M SDE: SDE-DPM-Solver++(2M) by the midpoint method (sample_dpmpp_2m_sde)."""
    return _dpmpp_2m_sde(model, x, sigmas, noise, eta, heun=False)


def sample_dpmpp_2m_sde_heun(
    model: Model, x: Tensor, sigmas: Tensor, *, noise: NoiseSource, eta: float
) -> Tensor:
    """DPM++ 2M SDE Heun: SDE-DPM-Solver++(2M) by Heun's method (sample_dpmpp_2m_sde, solver_type heun)."""
    return _dpmpp_2m_sde(model, x, sigmas, noise, eta, heun=True)


def _dpmpp_2m_sde(
    model: Model, x: Tensor, sigmas: Tensor, noise: NoiseSource, eta: float, *, heun: bool
) -> Tensor:
    before: Tensor | None = None
    h_before = math.nan
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        denoised = model(x, level(sigma))
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        h_eta = h * (1 + eta)
        x = _towards(x, denoised, math.exp(-h_eta))
        if before is not None:
            change = (denoised - before) * (h / h_before)
            x = x + change * (_phi_2(h_eta) if heun else -math.expm1(-h_eta) / 2)
        if eta:
            x = x + noise.between(sigma, sigma_next) * _added(sigma_next, h, eta)
        before, h_before = denoised, h
    return x


def sample_dpmpp_3m_sde(model: Model, x: Tensor, sigmas: Tensor, *, noise: NoiseSource, eta: float) -> Tensor:
    """DPM++ 3M SDE: SDE-DPM-Solver++ as a multistep method of third order (sample_dpmpp_3m_sde)."""
    before: list[Tensor] = []
    steps_before: list[float] = []
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        denoised = model(x, level(sigma))
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        h_eta = h * (1 + eta)
        x = _towards(x, denoised, math.exp(-h_eta))
        if len(before) == 2:
            near, far = steps_before[0] / h, steps_before[1] / h
            change = (denoised - before[0]) / near
            change_before = (before[0] - before[1]) / far
            bend = (change - change_before) / (near + far)
            x = x + (change + bend * near) * _phi_2(h_eta) - bend * _phi_3(h_eta)
        elif len(before) == 1:
            x = x + (denoised - before[0]) * (h / steps_before[0]) * _phi_2(h_eta)
        if eta:
            x = x + noise.between(sigma, sigma_next) * _added(sigma_next, h, eta)
        before = [denoised, *before][:2]
        steps_before = [h, *steps_before][:2]
    return x


def sample_dpm_fast(model: Model, x: Tensor, sigmas: Tensor, *, noise: NoiseSource, eta: float) -> Tensor:
    """DPM fast: DPM-Solver-fast, as many UNet calls as there are steps (k-diffusion's sample_dpm_fast).

    Steps of third order, even in log sigma from the first to the last level above 0, and one or two of lower
    order at the end. What it returns is at that last level.
    """
    levels = [sigma for sigma in sigmas.tolist() if sigma > 0]
    start, end, calls = -math.log(levels[0]), -math.log(levels[-1]), len(sigmas) - 1
    count = calls // 3 + 1
    orders = [3] * (count - 2) + [2, 1] if calls % 3 == 0 else [3] * (count - 1) + [calls % 3]
    times = [start + (end - start) * i / count for i in range(count + 1)]
    for order, t, t_next in zip(orders, times[:-1], times[1:], strict=True):
        sigma, sigma_next = math.exp(-t), math.exp(-t_next)
        down, _ = ancestral_step(sigma, sigma_next, eta)
        t_down = min(end, -math.log(down)) if down > 0 else end
        up = math.sqrt(max(sigma_next**2 - math.exp(-t_down) ** 2, 0.0))
        x = _dpm_solver_step(model, x, t, t_down, order)
        # Drawn even where nothing is added, as k-diffusion does, so that later numbers are the same.
        x = x + noise.next() * up
    return x


def _dpm_solver_step(model: Model, x: Tensor, t: float, t_next: float, order: int) -> Tensor:
    """One step of DPM-Solver-1, -2 or -3 (Algorithms 1 and 2 of its paper), exp(-t) to exp(-t_next)."""

    def eps(at: Tensor, time: float) -> Tensor:
        return (at - model(at, level(math.exp(-time)))) / math.exp(-time)

    h = t_next - t
    sigma_next = math.exp(-t_next)
    here = eps(x, t)
    first = x - here * (sigma_next * math.expm1(h))
    if order == 1:
        return first
    share = 1 / order  # where the next stage lies: r1 of the paper, 1/2 or 1/3
    middle = t + share * h
    there = eps(x - here * (math.exp(-middle) * math.expm1(share * h)), middle)
    if order == 2:
        return first - (there - here) * (sigma_next * math.expm1(h))
    later = t + 2 * share * h
    part = 2 * share * h
    stage = x - here * (math.exp(-later) * math.expm1(part))
    stage = stage - (there - here) * (math.exp(-later) * 2 * (math.expm1(part) / part - 1))
    last = eps(stage, later)
    return first - (last - here) * (sigma_next / (2 * share) * (math.expm1(h) / h - 1))


def _towards(x: Tensor, denoised: Tensor, kept: float) -> Tensor:
    """`x` moved to `denoised` until `kept` of the way is left."""
    return x * kept + denoised * (1 - kept)


def _added(sigma_next: float, h: float, eta: float) -> float:
    """How much noise a step of the SDE adds."""
    return sigma_next * math.sqrt(-math.expm1(-2 * h * eta))


def _phi_2(h: float) -> float:
    """phi_2(-h) of exponential integrators, times h: 1 - (1 - exp(-h)) / h."""
    return math.expm1(-h) / h + 1


def _phi_3(h: float) -> float:
    """phi_3(-h) of exponential integrators, times h."""
    return _phi_2(h) / h - 0.5
