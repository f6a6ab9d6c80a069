"""How good things are, from who was preferred to whom: the Bradley-Terry model with ties.

Each player i has a strength s_i on a logit scale. With t the tendency to ties (Davidson 1970, "On extending
the Bradley-Terry model to accommodate ties in paired comparison experiments", JASA 65, written with
pi = exp(s) and nu = exp(t)), of i against j

    P(i wins) = exp(s_i) / Z,   P(tie) = exp(t + (s_i + s_j) / 2) / Z,   P(j wins) = exp(s_j) / Z

where Z is the sum of the three numerators. Without ties a difference of 1 is a preference of 73 %.

Strengths get the prior N(0, 1): whoever was never compared is at the mean, whoever won every comparison
stays finite, and few comparisons say little. The tendency to ties gets a wide prior around nu = 1/2. The
posterior's one maximum is found by Newton's method (its logarithm is concave: the model is an exponential
family), the standard errors are those of Laplace's approximation, the inverse of the Hessian there.
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
_HALVINGS = 30


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

    def chances(self, one: int, other: int) -> tuple[float, float, float]:
        """Of a win of the one, a tie, and a win of the other."""
        first, second = self.strengths[one], self.strengths[other]
        won, tie, lost = _softmax(np.array([first, self.ties + (first + second) / 2, second])).tolist()
        return won, tie, lost

    def information(self, one: int, other: int) -> float:
        """What one more comparison of the two would tell: half the logarithm by which it shrinks the variance
        of their difference (Glickman & Jensen 2005, "Adaptive paired comparison designs", J. Stat. Plan.
        Inference 127); it is large for two who are close and of whom little is known."""
        one_wins, tie, _ = self.chances(one, other)
        fisher = one_wins + tie / 4 - (one_wins + tie / 2) ** 2
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
    posterior = _Posterior.of(
        [(c.first, c.second) for c in counted],
        [_OUTCOMES[c.outcome] for c in counted],
        mean=np.append(np.zeros(players), TIES_MEAN),
        precision=np.append(np.full(players, prior_spread**-2), ties_spread**-2),
    )
    at = posterior.mean
    for _ in range(_STEPS):
        slope, hessian = posterior.derivatives(at)
        step: Numbers = np.asarray(np.linalg.solve(hessian, slope), dtype=np.float64)
        at = posterior.climbed(at, step)
        if float(np.abs(step).max()) < _CLOSE:
            break
    _, hessian = posterior.derivatives(at)
    covariance: Numbers = np.asarray(np.linalg.inv(hessian), dtype=np.float64)
    return Strengths(at[:players], covariance[:players, :players], float(at[players]))


_OUTCOMES = {Outcome.FIRST: (1.0, 0.0, 0.0), Outcome.TIE: (0.0, 1.0, 0.0), Outcome.SECOND: (0.0, 0.0, 1.0)}


@dataclass(frozen=True)
class _Posterior:
    """The logarithm of the posterior. The unknowns are the strengths and, last, the tendency to ties.

    features: (comparisons, outcomes, unknowns), what each adds to the logit of an outcome. happened:
    (comparisons, outcomes), 1 for the one that happened. mean, precision: of the prior, (unknowns,).
    """

    features: Numbers
    happened: Numbers
    mean: Numbers
    precision: Numbers

    @classmethod
    def of(
        cls,
        pairs: Sequence[tuple[int, int]],
        outcomes: Sequence[tuple[float, float, float]],
        *,
        mean: Numbers,
        precision: Numbers,
    ) -> _Posterior:
        first, second = np.array(pairs, dtype=int).reshape(-1, 2).T
        rows = np.arange(len(pairs))
        features = np.zeros((len(pairs), 3, len(mean)))
        features[rows, 0, first] = features[rows, 2, second] = 1.0
        features[rows, 1, first] = features[rows, 1, second] = 0.5
        features[:, 1, -1] = 1.0
        return cls(features, np.array(outcomes, dtype=float).reshape(-1, 3), mean, precision)

    def value(self, at: Numbers) -> float:
        logits = self.features @ at
        likelihood = (self.happened * logits).sum() - np.logaddexp.reduce(logits, axis=1).sum()
        return float(likelihood - 0.5 * (self.precision * (at - self.mean) ** 2).sum())

    def derivatives(self, at: Numbers) -> tuple[Numbers, Numbers]:
        """The slope, and the negative Hessian."""
        chances = _softmax(self.features @ at)
        slope = np.einsum("co,cop->p", self.happened - chances, self.features)
        expected = np.einsum("co,cop->cp", chances, self.features)
        weighted = (self.features * np.sqrt(chances)[..., None]).reshape(-1, len(at))
        hessian = weighted.T @ weighted - expected.T @ expected + np.diag(self.precision)
        return slope - self.precision * (at - self.mean), hessian

    def climbed(self, at: Numbers, step: Numbers) -> Numbers:
        """The next point: the whole step, or the largest half of a half ... that does not go down."""
        before = self.value(at)
        for halving in range(_HALVINGS):
            there: Numbers = at + step / 2**halving
            if self.value(there) >= before:
                return there
        return at


def _softmax(logits: Numbers) -> Numbers:
    chances: Numbers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    shares: Numbers = chances / chances.sum(axis=-1, keepdims=True)
    return shares
