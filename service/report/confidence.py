"""How sure a gain is: a bootstrap over the probes on which two checkpoints were compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scoring.reward import tally

RESAMPLES = 2000
SEED = 0
LEVEL = 0.95


@dataclass(frozen=True)
class Gain:
    """How far one checkpoint is above another. low, high: the 95 % interval; None for a single probe."""

    value: float
    low: float | None
    high: float | None
    probes: int

    @property
    def verdict(self) -> str:
        """good or bad where the interval leaves out 0; else open: it could be chance."""
        if self.low is not None and self.low > 0:
            return "good"
        return "bad" if self.high is not None and self.high < 0 else "open"


def paired_gain(winner: Sequence[float], rival: Sequence[float], tally_name: str) -> Gain:
    """The tally of the winner's scores minus that of the rival's, both on the same probes in the same order.

    The interval is the percentile bootstrap over probes (Efron & Tibshirani 1993, chapter 13): probes are
    drawn with replacement, each with both of its scores, so that what makes a probe easy or hard for both
    cancels. The seed is fixed. Raises InputError as `tally`, and ValueError for different lengths.
    """
    if len(winner) != len(rival):
        raise ValueError(f"{len(winner)} and {len(rival)} scores are not of the same probes")

    def difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
        return tally(tally_name, first.tolist()) - tally(tally_name, second.tolist())

    scores = np.asarray(winner, float), np.asarray(rival, float)
    value = difference(*scores)
    if len(winner) < 2:
        return Gain(value, None, None, len(winner))
    # scipy.stats takes a second to import, which no other command need pay.
    from scipy.stats import bootstrap

    interval = bootstrap(
        scores,
        difference,
        paired=True,
        vectorized=False,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Gain(value, float(interval.low), float(interval.high), len(winner))
