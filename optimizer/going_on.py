"""What going on is worth: how much the best score of a search is expected to rise by the next trials.

There are two ways to tell. A Gaussian process over the trials so far says what its own best proposals would
gain: the expected improvement of several points at once (Ginsbourger et al. 2010, "Kriging Is Well-Suited to
Parallelize Optimization"). The scores of the latest proposals say what more of the same kind would gain, as
if nothing were learned any more. Which is told depends on how the sampler proposes; what that is worth is
measured by `python -m benchmarks.going_on` (docs/stopping.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optimizer.samplers.choice import SamplerName
from optimizer.samplers.told import ToldTrial, informative, point, score_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

AHEAD = 10
"""How many trials ahead is looked."""
FEWEST = 10
"""After fewer scored proposals of the sampler nothing is known yet."""
# These propose without regard to the scores, those with regard to them but without a process. What the latter
# gain lies between what a process would and what more of the same kind does.
_BY_CHANCE: tuple[SamplerName, ...] = ("random",)
_IN_BETWEEN: tuple[SamplerName, ...] = ("tpe", "cmaes")
# A proposal counts e times less than one so many trials later.
_FADING = 20.0
# Beyond, the process costs more than it tells.
_MOST = 200
# What is tried for the process, by its posterior: how long one unit of weight is on the scale of changes,
# with log N(2, 1) before anything is known, and what is noise, log N(0.01, 3), as a share of the variance.
_LENGTHS = (0.5, 0.8, 1.2, 1.8, 2.7, 4.0, 6.0)
_NOISES = (1e-4, 0.03, 0.1, 0.3)
_LENGTH_BEFORE, _NOISE_BEFORE = (2.0, 1.0), (0.01, 3.0)
_JITTER = 1e-6
_BEST, _DRAWN, _KEPT, _ROUNDS, _DRAWS = 3, 400, 60, 3, 400


@dataclass(frozen=True)
class Outlook:
    """What the next trials are expected to gain.

    next_gain: score that the best one rises by with the next trial; gain: with the next `trials`. seconds:
    device time of one trial, as the latest took; None where no trial says so.
    """

    next_gain: float
    gain: float
    trials: int
    seconds: float | None

    @property
    def gain_per_hour(self) -> float | None:
        """Score per hour of device time, over the next `trials`."""
        return None if not self.seconds else self.gain / (self.trials * self.seconds) * 3600


def outlook(
    sampler: SamplerName,
    told: Sequence[ToldTrial],
    names: Sequence[str],
    *,
    first: int,
    incumbent: float,
    seconds: float | None,
    ahead: int = AHEAD,
) -> Outlook | None:
    """What going on is worth after `told`, trials with a score, at points of the space with these names.

    first: the number of the first trial that the sampler proposed. incumbent: the score to beat. seconds: of
    a trial. None before FEWEST trials of the sampler's own. The same trials always give the same numbers.
    """
    proposed = np.array([score_of(trial) for trial in told if trial.number >= first])
    if len(proposed) < FEWEST:
        return None
    counts = (1, ahead)
    gains = [gain_of_more_alike(proposed, incumbent, count) for count in counts]
    # Where no score differs, or no block is free, there is nothing to be fitted.
    if sampler not in _BY_CHANCE and names and np.ptp(proposed) > 0:
        known = informative(told, _MOST)
        points = np.array([point(trial, names) for trial in known])
        best = gains_of_a_process(points, np.array([score_of(t) for t in known]), incumbent, counts)
        gains = between(gains, best) if sampler in _IN_BETWEEN else best
    return Outlook(gains[0], gains[1], ahead, seconds)


def between(some: Sequence[float], others: Sequence[float]) -> list[float]:
    """The geometric means of gains, by pairs."""
    return [math.sqrt(gain * other) for gain, other in zip(some, others, strict=True)]


def gain_of_more_alike(scores: Array, incumbent: float, count: int) -> float:
    """How far the best of `count` more scores is expected above the incumbent.

    They are taken to be normal around the median so far, with the spread of those above it: what lies far
    below says nothing of how high the next may be. The latest count most.
    """
    from scipy.special import ndtr

    shares = np.exp(-np.arange(len(scores))[::-1] / _FADING)
    shares /= shares.sum()
    order = np.argsort(scores)
    median = scores[order][np.searchsorted(np.cumsum(shares[order]), 0.5)]
    above = scores >= median
    squares = shares[above] @ (scores[above] - median) ** 2 / shares[above].sum()
    spread = math.sqrt(squares / (1 - shares @ shares))
    if spread == 0:
        return 0.0
    from_here = (incumbent - median) / spread
    at = np.linspace(from_here, max(from_here, 3.0) + 6.0, 400)
    return spread * float(np.trapezoid(1 - ndtr(at) ** count, at))


@dataclass(frozen=True)
class _Process:
    """A Gaussian process with a Matérn-5/2 kernel, as it is after values at `points` (n, d)."""

    points: Array
    length: float
    mean: float
    variance: float
    factor: Array
    rest: Array

    def at(self, where: Array) -> tuple[Array, Array]:
        """The mean (k,) at points (k, d), and the whitened covariances (n, k) with what is known."""
        from scipy.linalg import solve_triangular

        known = _correlations(self.points, where, self.length)
        seen: Array = solve_triangular(self.factor, known, lower=True)
        return self.mean + self.rest @ seen, seen

    def draws(self, where: Array, count: int, draw: np.random.Generator) -> Array:
        """So many draws (count, k) of the function at points (k, d)."""
        mean, seen = self.at(where)
        left = _correlations(where, where, self.length) - seen.T @ seen + _JITTER * np.eye(len(where))
        root = np.linalg.cholesky(left) * math.sqrt(self.variance)
        found: Array = mean + draw.standard_normal((count, len(where))) @ root.T
        return found


def gains_of_a_process(points: Array, scores: Array, incumbent: float, counts: Sequence[int]) -> list[float]:
    """How far the best of so many points, the process's own choice, is expected above the incumbent."""
    draw = np.random.default_rng(len(scores))
    process = _fitted(points, scores)
    centres = points[np.argsort(-scores, kind="stable")[:_BEST]]
    drawn = process.draws(_candidates(process, centres, incumbent, draw), _DRAWS, draw)
    best, gains = np.full(len(drawn), incumbent), []
    for _ in range(max(counts)):
        # The next point is the one that adds most to those before it.
        best = np.maximum(best, drawn[:, np.maximum(drawn, best[:, None]).mean(0).argmax()])
        gains.append(float(best.mean()) - incumbent)
    return [gains[count - 1] for count in counts]


def _fitted(points: Array, scores: Array) -> _Process:
    """The most likely process of those that are tried; its mean and variance are the likeliest for each."""
    from scipy.linalg import solve_triangular

    found: list[tuple[float, _Process]] = []
    count = len(scores)
    for length in _LENGTHS:
        correlations = _correlations(points, points, length)
        for noise in _NOISES:
            factor = np.linalg.cholesky(correlations + (noise + _JITTER) * np.eye(count)).astype(float)
            whitened = solve_triangular(factor, np.stack([scores, np.ones(count)], 1), lower=True)
            mean = float(whitened[:, 0] @ whitened[:, 1] / (whitened[:, 1] @ whitened[:, 1]))
            rest: Array = whitened[:, 0] - mean * whitened[:, 1]
            variance = float(rest @ rest) / count
            evidence = -0.5 * count * math.log(variance) - float(np.log(np.diag(factor)).sum())
            before = _log_normal(length, *_LENGTH_BEFORE) + _log_normal(noise, *_NOISE_BEFORE)
            found.append((evidence + before, _Process(points, length, mean, variance, factor, rest)))
    return max(found, key=lambda each: each[0])[1]


def _candidates(process: _Process, centres: Array, incumbent: float, draw: np.random.Generator) -> Array:
    """Points of large expected improvement: draws around the best points, and around the best of those."""
    kept = centres
    for turn in range(_ROUNDS):
        spread = 10 ** draw.uniform(-2, -0.3 if turn else 0, (_DRAWN, 1))
        around = kept[draw.integers(len(kept), size=_DRAWN)]
        drawn = np.clip(around + spread * draw.standard_normal(around.shape), 0, 1)
        tried = np.concatenate([kept, drawn])
        kept = tried[np.argsort(-_improvement(process, tried, incumbent), kind="stable")[:_KEPT]]
    return kept


def _improvement(process: _Process, where: Array, incumbent: float) -> Array:
    """The expected improvement (Jones et al. 1998) of points (k, d)."""
    from scipy.special import ndtr

    mean, seen = process.at(where)
    error = np.sqrt(process.variance * np.maximum(1 - (seen**2).sum(0), 1e-9))
    z = (mean - incumbent) / error
    found: Array = error * (z * ndtr(z) + np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))
    return found


def _correlations(some: Array, others: Array, length: float) -> Array:
    """Matérn-5/2 correlations (n, m) of points (n, d) and (m, d)."""
    from scipy.spatial.distance import cdist

    u: Array = math.sqrt(5) / length * cdist(some, others)
    return (1 + u + u**2 / 3) * np.exp(-u)


def _log_normal(value: float, middle: float, spread: float) -> float:
    return -0.5 * (math.log(value / middle) / spread) ** 2
