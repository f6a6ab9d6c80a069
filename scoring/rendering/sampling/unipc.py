"""UniPC: Zhao et al. (2023), "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion
Models", Algorithms 5 to 8 with B(h) = h ("bh1")."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scoring.rendering.sampling.steps import Model, level

_ORDER = 3


def sample_unipc(model: Model, x: Tensor, sigmas: Tensor, **_: object) -> Tensor:
    """UniPC of order 3, variant bh1, of lower order at both ends; the last level, not 0, is uncorrected.

    These are A1111's settings (modules/models/diffusion/uni_pc/uni_pc.py); one UNet call per step. With x
    over sqrt(alpha_bar), its formulas lose their alphas, and lambda = -log(sigma).
    """
    levels = sigmas.tolist()
    steps = len(levels) - 1
    if steps == 0:
        return x
    known = [model(x, level(levels[0]))]  # the denoised images at the levels before, newest first
    for step in range(1, steps + 1):
        order = min(step, _ORDER, steps + 1 - step)
        sigma, sigma_next = levels[step - 1], levels[step]
        h = math.log(sigma / sigma_next)
        shares = [math.log(sigma / levels[step - 1 - i]) / h for i in range(1, order)]
        changes = [(known[i] - known[0]) / share for i, share in enumerate(shares, start=1)]
        straight = x * (sigma_next / sigma) + known[0] * -math.expm1(-h)

        predicted: Tensor = straight
        for weight, change in zip(_predictor_weights(shares, h), changes, strict=True):
            predicted = predicted + change * (h * weight)
        if step == steps:
            return predicted

        denoised = model(predicted, level(sigma_next))
        x = straight
        corrections = [*changes, denoised - known[0]]
        for weight, change in zip(_corrector_weights(shares, h), corrections, strict=True):
            x = x + change * (h * weight)
        known = [denoised, *known][:_ORDER]
    return x


def _predictor_weights(shares: list[float], h: float) -> list[float]:
    if len(shares) == 0:
        return []
    if len(shares) == 1:
        return [0.5]  # as the authors simplify it
    return _solve(shares, _moments(len(shares), h))


def _corrector_weights(shares: list[float], h: float) -> list[float]:
    if len(shares) == 0:
        return [0.5]
    return _solve([*shares, 1.0], _moments(len(shares) + 1, h))


def _solve(points: list[float], moments: NDArray[np.float64]) -> list[float]:
    """The weights of `points` with these moments: sum(weight * point**k) = moments[k]."""
    powers = np.vander(np.array(points), increasing=True).T
    return [float(weight) for weight in np.linalg.solve(powers, moments)]


def _moments(count: int, h: float) -> NDArray[np.float64]:
    """k! phi_{k+1}(-h) * (-h) / B(h) for k = 1..count with B(h) = -h: phi_k as in exponential integrators."""
    moments = []
    phi = math.expm1(-h) / -h - 1
    factorial = 1
    for k in range(1, count + 1):
        moments.append(phi * factorial / -h)
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    return np.array(moments)
