"""Does it help to know other pairs' histories? A Gaussian process of our own, with and without them.

It is here to be measured, and no sampler of the product: docs/search-benchmark.md has the figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.stats import norm

from benchmarks.searching.gaussian_process import Array, Process, fit_shared, matern
from benchmarks.searching.histories import Fitted, fitted
from benchmarks.searching.runs import Recorder

_ISOTROPIC = (0.3, 0.5, 0.8, 1.3, 2.0, 4.0)
_NOISE = 0.2
_BASES, _CANDIDATES, _MOST_CHANGED = 4, 1500, 4


@dataclass(frozen=True)
class Knowledge:
    """What other histories say: scales (D,), noise as a share of the signal, where scores were high."""

    scales: Array
    noise: float
    mean: Callable[[Array], Array]


@cache
def knowledge(folder: Path, but: int) -> Knowledge:
    """What all histories but one say: the scales they have in common, the mean of what they predict."""
    others = [each for number, each in enumerate(fitted(folder)) if number != but]
    shared = fit_shared([(each.points, each.scores) for each in others])
    predictions = [_prediction(each, process) for each, process in zip(others, shared, strict=True)]
    return Knowledge(
        shared[0].scales,
        shared[0].noise / shared[0].signal,
        lambda x: np.mean([predict(x) for predict in predictions], axis=0),
    )


def _prediction(history: Fitted, process: Process) -> Callable[[Array], Array]:
    ratio = process.noise / process.signal
    covariance = matern(history.points, history.points, process.scales) + ratio**2 * np.eye(
        len(history.points)
    )
    pull = np.linalg.solve(covariance, (history.scores - process.mean) / process.signal)
    return lambda x: matern(x, history.points, process.scales) @ pull


def local_process(known: Callable[[int], Knowledge] | None) -> Callable[[Recorder, int, int], None]:
    """An arm: expected improvement over changes of a few weights of the best four.

    known: knowledge for a seed; without it, one length scale for all blocks, the likeliest of a few.
    """

    def run(recorder: Recorder, _budget: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        learnt = known(seed) if known else None
        dimensions = len(recorder.blocks)
        points = [np.zeros(dimensions), np.ones(dimensions), np.full(dimensions, 0.5)]
        scores: list[float] = []
        while True:
            if len(scores) == len(points):
                points.append(_proposal(np.array(points), np.array(scores), learnt, random))
            point = points[len(scores)]
            scores.append(recorder.observe(dict(zip(recorder.blocks, map(float, point), strict=True))))

    return run


def _proposal(x: Array, y: Array, learnt: Knowledge | None, random: np.random.Generator) -> Array:
    models = (
        [_Model(x, y, learnt.scales, learnt.noise, learnt.mean)]
        if learnt
        else [_Model(x, y, np.full(x.shape[1], scale), _NOISE, None) for scale in _ISOTROPIC]
    )
    model = max(models, key=lambda each: each.evidence)
    best = x[np.argsort(-y)[:_BASES]]
    wide = _changed(best, _CANDIDATES, 0.3, random)
    found = wide[np.argmax(model.improvement(wide))]
    near = np.vstack([found[None], _changed(found[None], _CANDIDATES // 3, 0.1, random)])
    return np.asarray(near[np.argmax(model.improvement(near))])


def _changed(bases: Array, count: int, step: float, random: np.random.Generator) -> Array:
    changed = bases[random.integers(0, len(bases), count)].copy()
    for row in changed:
        blocks = random.choice(len(row), random.integers(1, _MOST_CHANGED + 1), replace=False)
        row[blocks] += random.normal(0.0, step, len(blocks))
    return np.clip(changed, 0.0, 1.0)


class _Model:
    """A process given scores: its level, and how much `mean` counts, by generalised least squares."""

    def __init__(
        self, x: Array, y: Array, scales: Array, noise: float, mean: Callable[[Array], Array] | None
    ) -> None:
        self._x, self._scales, self._mean, self._top = x, scales, mean, float(y.max())
        covariance = matern(x, x, scales) + (noise**2 + 1e-8) * np.eye(len(x))
        self._inverse = np.linalg.inv(covariance)
        features = self._features(x)
        # A prior N(0, 1) on how much the mean counts, next to none on the level.
        strength = np.diag([1e-6, 1.0][: features.shape[1]]) / max(float(y.var()), 1e-12)
        normal = features.T @ self._inverse @ features + strength
        self._level = np.linalg.solve(normal, features.T @ self._inverse @ y)
        rest = y - features @ self._level
        self._pull = self._inverse @ rest
        self._variance = max(float(rest @ self._pull) / len(x), 1e-12)
        self.evidence = -0.5 * (len(x) * np.log(self._variance) + np.linalg.slogdet(covariance)[1])

    def _features(self, x: Array) -> Array:
        ones = np.ones((len(x), 1))
        return ones if self._mean is None else np.hstack([ones, self._mean(x)[:, None]])

    def improvement(self, x: Array) -> Array:
        """The logarithm of the expected improvement, as far as it can be told from 0."""
        cross = matern(x, self._x, self._scales)
        mean = self._features(x) @ self._level + cross @ self._pull
        left = np.maximum(1.0 - ((cross @ self._inverse) * cross).sum(1), 1e-9)
        deviation = np.sqrt(self._variance * left)
        z = (mean - self._top) / deviation
        return np.asarray(np.log(np.maximum(deviation * (z * norm.cdf(z) + norm.pdf(z)), 1e-300)))
