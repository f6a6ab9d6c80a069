"""The noise levels of a sampler's steps, by the names of A1111's schedules (its modules/sd_schedulers.py).

A schedule takes the number of steps n >= 1 and the model's levels, and gives float64 levels on the CPU,
falling, n + 1 of them where nothing else is said. Most end with 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from scoring.rendering.sampling.levels import NoiseLevels

Schedule = Callable[[int, NoiseLevels], Tensor]

_KARRAS_RHO = 7.0
_POLYEXPONENTIAL_RHO = 1.0
_BETA_SHAPE = 0.6  # alpha and beta, A1111's default of both
# For Stable Diffusion 1: Sabour et al. (2024), "Align Your Steps".
_ALIGN_YOUR_STEPS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)


def uniform(n: int, levels: NoiseLevels) -> Tensor:
    """Even in time from the last to the first training step (k-diffusion's `get_sigmas`)."""
    return _ending_with_zero(levels.sigma_of(t) for t in _line(*_ends(levels), n))


def karras(n: int, levels: NoiseLevels) -> Tensor:
    """Karras et al. (2022), eq. 5 with rho 7."""
    return karras_between(levels.highest, levels.lowest, n)


def karras_between(highest: float, lowest: float, n: int) -> Tensor:
    """Eq. 5 of Karras et al. (2022) with rho 7: n levels from `highest` to `lowest`, then 0."""
    roots = _line(highest ** (1 / _KARRAS_RHO), lowest ** (1 / _KARRAS_RHO), n)
    return _ending_with_zero(root**_KARRAS_RHO for root in roots)


def exponential(n: int, levels: NoiseLevels) -> Tensor:
    """Even in log sigma (k-diffusion's `get_sigmas_exponential`)."""
    logs = _line(math.log(levels.highest), math.log(levels.lowest), n)
    return _ending_with_zero(math.exp(log) for log in logs)


def polyexponential(n: int, levels: NoiseLevels) -> Tensor:
    """A polynomial in log sigma, with A1111's rho of 1 (k-diffusion's `get_sigmas_polyexponential`)."""
    low, high = math.log(levels.lowest), math.log(levels.highest)
    ramp = (share**_POLYEXPONENTIAL_RHO for share in _line(1, 0, n))
    return _ending_with_zero(math.exp(low + share * (high - low)) for share in ramp)


def sgm_uniform(n: int, levels: NoiseLevels) -> Tensor:
    """Even in time, the last of n + 1 replaced by 0 (Stability's generative-models)."""
    return _ending_with_zero(levels.sigma_of(t) for t in _line(*_ends(levels), n + 1)[:-1])


def kl_optimal(n: int, levels: NoiseLevels) -> Tensor:
    """Even in arctan(sigma), Sabour et al. (2024); its last level is the model's lowest, not 0."""
    return _tensor(
        math.tan(angle) for angle in _line(math.atan(levels.highest), math.atan(levels.lowest), n + 1)
    )


def align_your_steps(n: int, levels: NoiseLevels) -> Tensor:
    """Sabour et al. (2024), "Align Your Steps": levels found for SD1 at 10 steps, log-linear between them.

    They are the paper's, whatever the model's are.
    """
    del levels
    shares = np.linspace(0, 1, len(_ALIGN_YOUR_STEPS))
    logs = np.interp(np.linspace(0, 1, n), shares, np.log(_ALIGN_YOUR_STEPS[::-1]))[::-1]
    return _ending_with_zero(math.exp(log) for log in logs)


def simple(n: int, levels: NoiseLevels) -> Tensor:
    """Every (T / n)-th training level from the highest, rounded down."""
    stride = len(levels.sigmas) / n
    return _ending_with_zero(float(levels.sigmas[-1 - int(i * stride)]) for i in range(n))


def normal(n: int, levels: NoiseLevels) -> Tensor:
    """Even in time, as `uniform`."""
    return uniform(n, levels)


def ddim(n: int, levels: NoiseLevels) -> Tensor:
    """Every (T // n)-th training level from the second lowest on; more than n where n does not divide T."""
    stride = max(len(levels.sigmas) // n, 1)
    chosen = range(1, len(levels.sigmas), stride)
    return _ending_with_zero(float(levels.sigmas[i]) for i in reversed(chosen))


def beta(n: int, levels: NoiseLevels) -> Tensor:
    """Lee et al. (2024), "Beta Sampling is All You Need": quantiles of Beta(0.6, 0.6), linear in sigma."""
    from scipy.stats import beta as beta_distribution

    quantiles = beta_distribution.ppf(1 - np.linspace(0, 1, n), _BETA_SHAPE, _BETA_SHAPE)
    width = levels.highest - levels.lowest
    return _ending_with_zero(levels.lowest + float(quantile) * width for quantile in quantiles)


SCHEDULES: Mapping[str, Schedule] = {
    "Uniform": uniform,
    "Karras": karras,
    "Exponential": exponential,
    "Polyexponential": polyexponential,
    "SGM Uniform": sgm_uniform,
    "KL Optimal": kl_optimal,
    "Align Your Steps": align_your_steps,
    "Simple": simple,
    "Normal": normal,
    "DDIM": ddim,
    "Beta": beta,
}


def _ends(levels: NoiseLevels) -> tuple[float, float]:
    return float(levels.times[-1]), float(levels.times[0])


def _line(start: float, end: float, n: int) -> list[float]:
    """n numbers in even steps; `start` alone where n is 1."""
    return [float(x) for x in np.linspace(start, end, n)]


def _ending_with_zero(sigmas: Iterable[float]) -> Tensor:
    return _tensor([*sigmas, 0.0])


def _tensor(sigmas: Iterable[float]) -> Tensor:
    return torch.tensor(list(sigmas), dtype=torch.float64)
