"""How good things are, from who was preferred to whom: the Bradley-Terry model with ties.

Each player i has a strength s_i on a logit scale. With t the tendency to ties (Davidson 1970, "On extending
the Bradley-Terry model to accommodate ties in paired comparison experiments", JASA 65, written with
pi = exp(s) and nu = exp(t)), of i against j

    P(i wins) = exp(s_i) / Z,   P(tie) = exp(t + (s_i + s_j) / 2) / Z,   P(j wins) = exp(s_j) / Z

where Z is the sum of the three numerators. Without ties a difference of 1 is a preference of 73 %.

Strengths get the prior N(0, 1): whoever was never compared is at the mean, whoever won every comparison stays
finite, and few comparisons say little. The tendency to ties gets a wide prior around nu = 1/2. The posterior's
one maximum is found by Newton's method (its logarithm is concave: the model is an exponential family), the
standard errors are those of Laplace's approximation, the inverse of the Hessian there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

PRIOR_SPREAD = 1.0
"""Standard deviation of the strengths before anybody voted, in logits: among merges of two checkpoints the
better of two is seldom preferred by more than three of four people."""
TIES_MEAN, TIES_SPREAD = math.log(0.5), 1.0
"""Of the tendency to ties, t, before anybody voted: one in five comparisons of equals is a tie."""
_STEPS = 100
_CLOSE = 1e-10


class Outcome(StrEnum):
    """What one comparison of two players gave."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"


@dataclass(frozen=True)
class Comparison:
    """Two players, by their numbers, and which of them was preferred."""

    first: int
    second: int
    outcome: Outcome


@dataclass(frozen=True)
class Strengths:
    """What the comparisons say. strengths: (n,), logits; covariance: (n, n), of their posterior; ties: t."""

    strengths: Numbers
    covariance: Numbers
    ties: float

    def above(self, player: int, anchor: int | None) -> tuple[float, float]:
        """How far a player is above another, and the standard error of that, in logits; (0, 0) above itself.

        Without an anchor: above the mean of the prior.
        """
        if anchor is None:
            return float(self.strengths[player]), math.sqrt(self.covariance[player, player])
        difference = self.strengths[player] - self.strengths[anchor]
        return float(difference), math.sqrt(max(0.0, self.variance(player, anchor)))

    def variance(self, one: int, other: int) -> float:
        """The variance of the difference of two strengths."""
        c = self.covariance
        return float(c[one, one] + c[other, other] - 2 * c[one, other])

    def information(self, one: int, other: int) -> float:
        """What one more comparison of the two would tell: half the logarithm by which it shrinks the variance
        of their difference (Glickman & Jensen 2005, "Adaptive paired comparison designs", J. Stat. Plan.
        Inference 127); it is large for two who are close and of whom little is known."""
        first, tie, second = _chances(
            np.array([self.strengths[one]]), np.array([self.strengths[other]]), self.ties
        )
        fisher = float((first + tie / 4 - (first + tie / 2) ** 2)[0])
        return 0.5 * math.log1p(fisher * max(0.0, self.variance(one, other)))


def fit(
    players: int,
    comparisons: Sequence[Comparison],
    *,
    prior_spread: float = PRIOR_SPREAD,
    ties_spread: float = TIES_SPREAD,
) -> Strengths:
    """The strengths of `players` players, numbered from 0, after these comparisons.

    prior_spread, ties_spread: standard deviations of the priors, > 0; wide ones give the maximum of the
    likelihood where there is one. A player compared with itself says nothing and is left out. Raises
    ValueError for a number that is no player's.
    """
    counted = [c for c in comparisons if c.first != c.second]
    if any(not 0 <= number < players for c in counted for number in (c.first, c.second)):
        raise ValueError(f"a comparison names a player that is not one of {players}")
    first = np.array([c.first for c in counted], dtype=int)
    second = np.array([c.second for c in counted], dtype=int)
    won = np.array([_OUTCOMES[c.outcome] for c in counted], dtype=float).reshape(-1, 3)
    # The last unknown is the tendency to ties.
    features = np.zeros((len(counted), 3, players + 1))
    rows = np.arange(len(counted))
    features[rows, 0, first] = features[rows, 2, second] = 1.0
    features[rows, 1, first] = features[rows, 1, second] = 0.5
    features[:, 1, players] = 1.0
    mean = np.append(np.zeros(players), TIES_MEAN)
    precision = np.append(np.full(players, prior_spread**-2), ties_spread**-2)
    at = mean.copy()
    for _ in range(_STEPS):
        slope, hessian = _derivatives(at, features, won, mean, precision)
        step = np.linalg.solve(hessian, slope)
        at = _climbed(at, step, features, won, mean, precision)
        if float(np.abs(step).max()) < _CLOSE:
            break
    _, hessian = _derivatives(at, features, won, mean, precision)
    covariance = np.linalg.inv(hessian)[:players, :players]
    return Strengths(at[:players], covariance, float(at[players]))


_OUTCOMES = {Outcome.FIRST: (1, 0, 0), Outcome.TIE: (0, 1, 0), Outcome.SECOND: (0, 0, 1)}


def _chances(first: Numbers, second: Numbers, ties: float) -> tuple[Numbers, Numbers, Numbers]:
    """Of a win of the first, a tie, and a win of the second."""
    logits = np.stack([first, ties + (first + second) / 2, second], axis=-1)
    chances = np.exp(logits - logits.max(axis=-1, keepdims=True))
    chances /= chances.sum(axis=-1, keepdims=True)
    return chances[..., 0], chances[..., 1], chances[..., 2]


def _derivatives(
    at: Numbers, features: Numbers, won: Numbers, mean: Numbers, precision: Numbers
) -> tuple[Numbers, Numbers]:
    """The slope of the log posterior, and its negative Hessian."""
    logits = features @ at
    chances = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    chances /= chances.sum(axis=1, keepdims=True)
    slope = np.einsum("co,cop->p", won - chances, features) - precision * (at - mean)
    expected = np.einsum("co,cop->cp", chances, features)
    weighted = features * np.sqrt(chances)[..., None]
    flat = weighted.reshape(-1, weighted.shape[-1])
    return slope, flat.T @ flat - expected.T @ expected + np.diag(precision)


def _climbed(
    at: Numbers, step: Numbers, features: Numbers, won: Numbers, mean: Numbers, precision: Numbers
) -> Numbers:
    """The next point: the whole step, or the largest half of a half … that goes up."""
    before = _log_posterior(at, features, won, mean, precision)
    for halving in range(30):
        there: Numbers = at + step / 2**halving
        if _log_posterior(there, features, won, mean, precision) >= before:
            return there
    return at


def _log_posterior(at: Numbers, features: Numbers, won: Numbers, mean: Numbers, precision: Numbers) -> float:
    logits = features @ at
    likelihood = (won * logits).sum() - np.logaddexp.reduce(logits, axis=1).sum()
    return float(likelihood - 0.5 * (precision * (at - mean) ** 2).sum())
