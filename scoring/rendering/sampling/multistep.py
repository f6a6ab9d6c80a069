"""Linear multistep methods: LMS and PLMS."""

from __future__ import annotations

import math
from itertools import pairwise

from numpy.polynomial.polynomial import polyfromroots, polyint, polyval
from torch import Tensor

from scoring.rendering.sampling.steps import Model, level

_LMS_ORDER = 4


def sample_lms(model: Model, x: Tensor, sigmas: Tensor, **_: object) -> Tensor:
    """LMS: Adams-Bashforth over uneven levels, up to order 4 (k-diffusion's sample_lms)."""
    levels = sigmas.tolist()
    slopes: list[Tensor] = []
    for i, sigma in enumerate(levels[:-1]):
        slopes = [(x - model(x, level(sigma))) / sigma, *slopes][:_LMS_ORDER]
        known = levels[i - len(slopes) + 1 : i + 1][::-1]
        weights = _lagrange_integrals(known, sigma, levels[i + 1])
        for weight, slope in zip(weights, slopes, strict=True):
            x = x + slope * weight
    return x


def _lagrange_integrals(points: list[float], start: float, end: float) -> list[float]:
    """For each point, the integral from `start` to `end` of the polynomial that is 1 there, 0 at others."""
    integrals = []
    for j, point in enumerate(points):
        others = points[:j] + points[j + 1 :]
        # Around `start` and in units of the step, so that powers of large levels do not cancel.
        roots = [(other - start) / (end - start) for other in others]
        at_point = math.prod((point - other) / (end - start) for other in others)
        integral = float(polyval(1.0, polyint(polyfromroots(roots))))
        integrals.append(integral * (end - start) / at_point)
    return integrals


def sample_plms(model: Model, x: Tensor, sigmas: Tensor, **_: object) -> Tensor:
    """PLMS: Liu et al. (2022), "Pseudo Numerical Methods for Diffusion Models on Manifolds".

    Adams-Bashforth on the predicted noise, as for even steps, begun by one pseudo improved Euler step (two
    UNet calls). Source: A1111's sd_samplers_timesteps_impl.py (plms).
    """
    before: list[Tensor] = []
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        eps = (x - model(x, level(sigma))) / sigma
        step = sigma_next - sigma
        if len(before) == 0:
            ahead = x + eps * step
            eps_ahead = (ahead - model(ahead, level(sigma_next))) / sigma_next
            direction = (eps + eps_ahead) / 2
        elif len(before) == 1:
            direction = (3 * eps - before[0]) / 2
        elif len(before) == 2:
            direction = (23 * eps - 16 * before[0] + 5 * before[1]) / 12
        else:
            direction = (55 * eps - 59 * before[0] + 37 * before[1] - 9 * before[2]) / 24
        x = x + direction * step
        before = [eps, *before][:3]
    return x
