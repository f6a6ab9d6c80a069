"""A Gaussian process that is told slopes: every trial that carries them says 28 numbers instead of one.

The scores are a draw of a process with a Matérn-5/2 kernel, and so are their derivatives: the covariances
between values and slopes are derivatives of the kernel (Solak et al. 2003, "Derivative Observations in
Gaussian Process Models of Dynamic Systems"; Rasmussen and Williams 2006, section 9.4). How fast the score
changes along each block is told by the slopes themselves. What is proposed has the largest expected
improvement.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch

from optimizer.blocks import BlockWeights
from optimizer.samplers.told import ToldTrial, informative, point, score_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

# Beyond, a proposal costs more than it gains: with 27 blocks 30 slopes are 810 numbers to be told.
_MOST_SLOPES = 30
_MOST_VALUES = 200
# Of these the process is fitted to fewer: what shape it has is told by the slopes.
_MOST_VALUES_FITTED = 40
# What is tried for the process, by its likelihood: how long one unit of weight is on the scale of changes,
# how far that differs between blocks as their slopes do, and how inexact slopes are against their spread.
_LENGTHS = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6)
_TEMPERS = (0.0, 0.5, 1.0)
_SLOPE_NOISES = (1e-3, 1e-2, 1e-1)
_VALUE_NOISE = 1e-4
_LARGEST_RATIO = 8.0
_DRAWN = 512
_STARTS = 4


@dataclass(frozen=True)
class _Told:
    """values (n,) at points (n, d), slopes (m, d) at their points (m, d)."""

    points: Tensor
    values: Tensor
    slope_points: Tensor
    slopes: Tensor


@dataclass(frozen=True)
class _Process:
    """A process as it is after what was told, in coordinates where every length is 1."""

    stretch: Tensor
    slope_noise: float
    mean: Tensor
    variance: Tensor
    points: Tensor
    slope_points: Tensor
    factor: Tensor
    answer: Tensor
    likelihood: float

    def at(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (k,) of the score at weights (k, d)."""
        known = _to_values(where * self.stretch, self.points, self.slope_points)
        mean = self.mean + known @ self.answer
        seen = torch.linalg.solve_triangular(self.factor, known.T, upper=False).square().sum(0)
        return mean, (self.variance * (1 - seen).clamp_min(1e-9)).sqrt()


def climbed(blocks: Sequence[str], told: Sequence[ToldTrial], seed: int) -> BlockWeights:
    """What has the largest expected improvement (Jones et al. 1998) after `told`, trials with a score.

    At least one of them has slopes.
    """
    data = _data(blocks, told, _MOST_VALUES)
    fitted = _fitted(_data(blocks, told, _MOST_VALUES_FITTED))
    process = _process(data, fitted.stretch, fitted.slope_noise)
    best = float(data.values.max())
    draw = np.random.default_rng(seed)
    found = _best_of(process, data, best, draw)
    return dict(zip(blocks, map(float, found), strict=True))


def _data(blocks: Sequence[str], told: Sequence[ToldTrial], most_values: int) -> _Told:
    sloped = informative([trial for trial in told if trial.slopes is not None], _MOST_SLOPES)
    kept = {trial.number for trial in (*sloped, *informative(told, most_values))}
    valued = [trial for trial in told if trial.number in kept]

    def rows(found: list[NDArray[np.float64]]) -> Tensor:
        return torch.tensor(np.array(found), dtype=torch.float64)

    return _Told(
        rows([point(trial, blocks) for trial in valued]),
        torch.tensor([score_of(trial) for trial in valued], dtype=torch.float64),
        rows([point(trial, blocks) for trial in sloped]),
        rows([np.array([(trial.slopes or {})[block] for block in blocks]) for trial in sloped]),
    )


def _fitted(data: _Told) -> _Process:
    return max(_candidates(data), key=lambda process: process.likelihood)


def _candidates(data: _Told) -> Iterator[_Process]:
    """Every process that is tried: coarse first, then the noise of the slopes for the best shape."""
    shapes = [_process(data, _stretch(data, *shape), 1e-2) for shape in product(_LENGTHS, _TEMPERS)]
    best = max(shapes, key=lambda process: process.likelihood)
    yield best
    for noise in _SLOPE_NOISES:
        yield _process(data, best.stretch, noise)


def _stretch(data: _Told, length: float, temper: float) -> Tensor:
    """What weights are multiplied by (d,): more along blocks whose slopes are larger."""
    size = data.slopes.square().mean(0).sqrt()
    typical = size.square().mean().sqrt().clamp_min(1e-30)
    ratio = (size / typical).clamp(1 / _LARGEST_RATIO, _LARGEST_RATIO) ** temper
    ratio = ratio / ratio.square().mean().sqrt()
    return ratio / length


def _process(data: _Told, stretch: Tensor, slope_noise: float) -> _Process:
    """The process with these lengths; its mean and variance are those of the largest likelihood."""
    points, slope_points = data.points * stretch, data.slope_points * stretch
    slopes = data.slopes / stretch
    n, m = len(points), slopes.numel()
    covariance = torch.empty(n + m, n + m, dtype=torch.float64)
    covariance[:, :n] = _to_values(points, points, slope_points).T
    covariance[:n, n:] = covariance[n:, :n].T
    covariance[n:, n:] = _slopes_to_slopes(slope_points)
    noise = torch.cat([torch.full((n,), _VALUE_NOISE), torch.full((m,), slope_noise * 5 / 3)])
    covariance.diagonal().add_(noise)
    factor = torch.linalg.cholesky(covariance)
    told = torch.cat([data.values, slopes.flatten()])
    ones = torch.cat([torch.ones(n, dtype=torch.float64), torch.zeros(m, dtype=torch.float64)])
    whitened = torch.linalg.solve_triangular(factor, torch.stack([told, ones], 1), upper=False)
    mean = (whitened[:, 0] @ whitened[:, 1]) / (whitened[:, 1] @ whitened[:, 1])
    rest = whitened[:, 0] - mean * whitened[:, 1]
    variance = (rest @ rest) / (n + m)
    # The slopes are told per stretched unit: back on the scale of the weights the density changes by this.
    change = len(slopes) * float(stretch.log().sum())
    likelihood = -0.5 * (n + m) * math.log(float(variance)) - float(factor.diagonal().log().sum()) - change
    answer = torch.linalg.solve_triangular(factor.T, rest[:, None], upper=True)[:, 0]
    return _Process(stretch, slope_noise, mean, variance, points, slope_points, factor, answer, likelihood)


def _to_values(where: Tensor, points: Tensor, slope_points: Tensor) -> Tensor:
    """Covariances (k, n + m d) of values at `where` (k, d) with values (n) and slopes (m, d), of length 1.

    Matérn-5/2: with u = sqrt(5) r, k = (1 + u + u^2 / 3) exp(-u), and d k / d x' = 5/3 (1 + u) exp(-u)
    (x - x').
    """
    u = _distances(where, points)
    values = (1 + u + u.square() / 3) * (-u).exp()
    v = _distances(where, slope_points)
    apart = where[:, None] - slope_points[None]
    slopes = (5 / 3 * (1 + v) * (-v).exp())[:, :, None] * apart
    return torch.cat([values, slopes.flatten(1)], 1)


def _slopes_to_slopes(points: Tensor) -> Tensor:
    """Covariances (m d, m d) of slopes: 5/3 exp(-u) ((1 + u) I - 5 (x - x') (x - x')^T)."""
    m, d = points.shape
    u = _distances(points, points)
    apart = points[:, None] - points[None]
    decay = 5 / 3 * (-u).exp()
    scaled = -5 * decay[..., None] * apart
    covariances = scaled.permute(0, 2, 1).contiguous()[..., None] * apart[:, None]
    covariances.diagonal(dim1=1, dim2=3).add_((decay * (1 + u))[..., None])
    return covariances.view(m * d, m * d)


def _distances(some: Tensor, others: Tensor) -> Tensor:
    """sqrt(5) times the distances. Their gradient is 0 where they are: so is that of the kernel."""
    # Not through a matrix product, which is inexact for points that are close.
    return math.sqrt(5) * torch.cdist(some, others, compute_mode="donot_use_mm_for_euclid_dist")


def _log_improvement(process: _Process, where: Tensor, best: float) -> Tensor:
    """The logarithm of the expected improvement (k,), finite far below too."""
    mean, error = process.at(where)
    z = (mean - best) / error
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    share = 0.5 * torch.erfc(-z / math.sqrt(2))
    near = torch.log((z * share + density).clamp_min(1e-300))
    # For z -> -inf: density / z^2.
    far = -z.square() / 2 - math.log(math.sqrt(2 * math.pi)) - 2 * torch.log(z.abs().clamp_min(1.0))
    return torch.where(z > -6, near, far) + error.log()


def _best_of(process: _Process, data: _Told, best: float, draw: np.random.Generator) -> NDArray[np.float64]:
    """Where it is largest: few climbs, from the best of many draws around the best points."""
    from scipy.optimize import minimize

    order = torch.argsort(data.values, descending=True)[:3]
    centres = data.points[order].numpy()
    dimensions = centres.shape[1]
    chosen = centres[draw.integers(len(centres), size=_DRAWN)]
    spread = 10 ** draw.uniform(-2, 0, size=(_DRAWN, 1))
    drawn = np.clip(chosen + spread * draw.normal(size=(_DRAWN, dimensions)), 0, 1)
    drawn = np.concatenate([drawn, centres])
    with torch.no_grad():
        worth = _log_improvement(process, torch.from_numpy(drawn), best).numpy()
    starts = [*drawn[np.argsort(-worth)[:_STARTS]], centres[0]]

    def falling(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        where = torch.from_numpy(x)[None].requires_grad_()
        value = -_log_improvement(process, where, best).sum()
        (slope,) = torch.autograd.grad(value, where)
        return value.item(), slope[0].numpy()

    how = {"jac": True, "method": "L-BFGS-B", "bounds": [(0, 1)] * dimensions, "options": {"maxiter": 60}}
    climbs = [minimize(falling, start, **how) for start in starts]
    found: NDArray[np.float64] = min(climbs, key=lambda climb: float(climb.fun)).x
    return np.clip(found, 0.0, 1.0)
