"""Which blocks the score of a search depends on, from the trials it told so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.search import ToldTrial

FEWEST = 8
"""Trials below which nothing is said."""
_STRENGTHS = np.logspace(-3, 3, 25)


@dataclass(frozen=True)
class Importance:
    """A linear model of the score.

    slopes: block -> how much the score changes where that block alone goes from A (0) to B (1), in the
    score's unit; above 0, B is better there. trials: how many it was fitted on. explained: share of the
    scores' variance that it tells of trials left out of the fit, at most 1; at 0 or below it knows nothing.
    """

    slopes: dict[str, float]
    trials: int
    explained: float


def block_importance(told: Sequence[ToldTrial]) -> Importance | None:
    """Ridge regression of the score on the block weights (Hoerl and Kennard 1970).

    Its strength is the one of the smallest leave-one-out error (Allen's PRESS, 1974). None with fewer than
    FEWEST scored trials, or where all scored the same.
    """
    scored = [trial for trial in told if trial.score is not None]
    scores = np.array([trial.score for trial in scored])
    if len(scored) < FEWEST or np.ptp(scores) == 0:
        return None
    blocks = list(scored[0].weights)
    weights = np.array([[trial.weights[block] for block in blocks] for trial in scored])
    centred, target = weights - weights.mean(axis=0), scores - scores.mean()
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    errors = [_left_out_error(left, sizes, target, strength) for strength in _STRENGTHS]
    best = int(np.argmin(errors))
    shrunk = sizes / (sizes**2 + _STRENGTHS[best])
    slopes = right.T @ (shrunk * (left.T @ target))
    # What the plain mean of the others would have been wrong by.
    count = len(scored)
    by_mean = float(np.mean((target * count / (count - 1)) ** 2))
    return Importance(
        slopes=dict(zip(blocks, slopes.tolist(), strict=True)),
        trials=count,
        explained=1.0 - errors[best] / by_mean,
    )


def _left_out_error(left: np.ndarray, sizes: np.ndarray, target: np.ndarray, strength: float) -> float:
    """Mean square error of every trial by the fit to the others, the mean being fitted too."""
    kept = sizes**2 / (sizes**2 + strength)
    residual = target - left @ (kept * (left.T @ target))
    leverage = (left**2) @ kept + 1.0 / len(target)
    return float(np.mean((residual / np.maximum(1e-9, 1.0 - leverage)) ** 2))
