"""Gaussian processes with a Matérn-5/2 kernel and a length scale per block: fitted, and drawn from.

A draw is one consistent function with exact slopes: a prior draw by random Fourier features (Rahimi & Recht
2007), conditioned on data by Matheron's rule (Wilson et al. 2020, arXiv:2002.09309).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

Array = NDArray[np.float64]

FEATURES = 2000
# Spread of the priors on the logarithms of length scales, of the noise and of the signal's variance.
_SCALE_SPREAD, _NOISE_SPREAD, _SIGNAL_SPREAD = 1.0, 1.0, 0.5
_MEDIAN_SCALE, _MEDIAN_NOISE = 1.0, 0.3
_JITTER = 1e-8


@dataclass(frozen=True)
class Process:
    """scales: length scale of each dimension (D,); mean, signal and noise (both as standard deviations) in
    the data's unit."""

    scales: Array
    mean: float
    signal: float
    noise: float

    @property
    def effective_dimension(self) -> float:
        """How many dimensions matter: (sum of 1 / scale^2)^2 / sum of 1 / scale^4, D where all are alike."""
        relevance = self.scales**-2.0
        return float(relevance.sum() ** 2 / (relevance**2).sum())


def matern(a: Array, b: Array, scales: Array) -> Array:
    """Correlations (N, M) of points (N, D) and (M, D)."""
    r = np.sqrt(5.0) * _distances(a / scales, b / scales)
    return np.asarray((1.0 + r + r**2 / 3.0) * np.exp(-r))


def matern_slopes(x: Array, points: Array, scales: Array) -> Array:
    """Slopes (M, D) in `x` (D,) of its correlations with points (M, D)."""
    r = np.sqrt(5.0) * _distances((x / scales)[None], points / scales)[0]
    return np.asarray(-(5.0 / 3.0) * ((1.0 + r) * np.exp(-r))[:, None] * (x - points) / scales**2)


def _distances(a: Array, b: Array) -> Array:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2.0 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def fit(x: Array, y: Array) -> Process:
    """The process of the highest posterior density for one set of data: points (N, D) and values (N,)."""
    return fit_shared([(x, y)])[0]


def fit_shared(data: list[tuple[Array, Array]]) -> list[Process]:
    """As `fit`, for several sets that have length scales and noise (as a share of the spread) in common.

    Priors, on values brought to mean 0 and spread 1: log length scale ~ N(log 1, 1), log noise ~
    N(log .3, 1), log signal variance ~ N(0, .5). The mean of each set has a flat prior and is integrated out.
    """
    spreads = [float(y.std()) or 1.0 for _, y in data]
    sets = [
        (torch.from_numpy(x), torch.from_numpy((y - y.mean()) / spread))
        for (x, y), spread in zip(data, spreads, strict=True)
    ]
    dimensions = sets[0][0].shape[1]

    def loss(packed: Array) -> tuple[float, Array]:
        theta = torch.tensor(packed, requires_grad=True)
        log_scales, log_noise, log_signal = theta[:dimensions], theta[dimensions], theta[dimensions + 1]
        prior = (
            ((log_scales - np.log(_MEDIAN_SCALE)) ** 2).sum() / (2 * _SCALE_SPREAD**2)
            + (log_noise - np.log(_MEDIAN_NOISE)) ** 2 / (2 * _NOISE_SPREAD**2)
            + log_signal**2 / (2 * _SIGNAL_SPREAD**2)
        )
        total = prior - sum(_log_evidence(x, y, log_scales, log_noise, log_signal)[0] for x, y in sets)
        total.backward()
        assert theta.grad is not None
        return float(total.detach()), theta.grad.numpy()

    start = np.concatenate([np.full(dimensions, np.log(_MEDIAN_SCALE)), [np.log(_MEDIAN_NOISE), 0.0]])
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300})
    theta = torch.from_numpy(best.x)
    log_scales, log_noise, log_signal = theta[:dimensions], theta[dimensions], theta[dimensions + 1]
    processes = []
    for (x, y), (_, raw), spread in zip(sets, data, spreads, strict=True):
        mean = float(_log_evidence(x, y, log_scales, log_noise, log_signal)[1])
        processes.append(
            Process(
                scales=np.exp(best.x[:dimensions]),
                mean=float(raw.mean()) + spread * mean,
                signal=spread * float(np.exp(best.x[dimensions + 1] / 2)),
                noise=spread * float(np.exp(best.x[dimensions])),
            )
        )
    return processes


def _log_evidence(
    x: torch.Tensor,
    y: torch.Tensor,
    log_scales: torch.Tensor,
    log_noise: torch.Tensor,
    log_signal: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The log marginal likelihood with the mean integrated out, and that mean."""
    scaled = x / log_scales.exp()
    squares = ((scaled[:, None] - scaled[None]) ** 2).sum(-1)
    r = (5.0 * squares + 1e-12).sqrt()
    covariance = log_signal.exp() * (1 + r + r**2 / 3) * (-r).exp()
    covariance = covariance + (log_noise.exp() ** 2 + _JITTER) * torch.eye(len(x), dtype=x.dtype)
    factor = torch.linalg.cholesky(covariance)
    ones = torch.ones_like(y)
    whitened = torch.linalg.solve_triangular(factor, torch.stack([y, ones], 1), upper=False)
    precision = whitened[:, 1] @ whitened[:, 1]
    mean = whitened[:, 0] @ whitened[:, 1] / precision
    rest = whitened[:, 0] - mean * whitened[:, 1]
    evidence = -0.5 * rest @ rest - factor.diagonal().log().sum() - 0.5 * precision.log()
    return evidence, mean


@dataclass(frozen=True)
class Draw:
    """One function drawn from a process, in units of its signal around its mean."""

    process: Process
    frequencies: Array
    phases: Array
    amplitudes: Array
    points: Array
    pulls: Array

    def value(self, x: Array) -> float:
        """The function at `x` (D,): 0 is the process's mean, 1 one signal above it."""
        prior = self.amplitudes @ np.cos(self.frequencies @ x + self.phases)
        return float(prior + self.pulls @ matern(self.points, x[None], self.process.scales)[:, 0])

    def slopes(self, x: Array) -> Array:
        """The slopes (D,) of `value`."""
        prior = -(self.amplitudes * np.sin(self.frequencies @ x + self.phases)) @ self.frequencies
        return np.asarray(prior + self.pulls @ matern_slopes(x, self.points, self.process.scales))


def draw(process: Process, seed: int, data: tuple[Array, Array] | None = None) -> Draw:
    """A draw from the prior; from the posterior where data (points (N, D) and values (N,)) are given."""
    random = np.random.default_rng(seed)
    dimensions = len(process.scales)
    # The spectral density of a Matérn kernel of order v is that of Student's t with 2 v degrees of freedom.
    normal = random.standard_normal((FEATURES, dimensions))
    frequencies = normal * np.sqrt(5.0 / random.chisquare(5.0, (FEATURES, 1))) / process.scales
    phases = random.uniform(0.0, 2 * np.pi, FEATURES)
    amplitudes = random.standard_normal(FEATURES) * np.sqrt(2.0 / FEATURES)
    prior = Draw(process, frequencies, phases, amplitudes, np.zeros((0, dimensions)), np.zeros(0))
    if data is None:
        return prior
    points, values = data
    ratio = process.noise / process.signal
    there = np.array([prior.value(point) for point in points])
    missing = (values - process.mean) / process.signal - there - ratio * random.standard_normal(len(points))
    covariance = matern(points, points, process.scales) + (ratio**2 + _JITTER) * np.eye(len(points))
    return Draw(process, frequencies, phases, amplitudes, points, np.linalg.solve(covariance, missing))
