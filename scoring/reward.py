"""Scores to the one number of a trial: the tally over its images and the weighted mean over scorers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from scoring.errors import InputError
from scoring.scorers.base import ScorerSpec

Scores = Sequence[float]


def _geometric(scores: Scores) -> float:
    return math.exp(math.fsum(map(math.log, scores)) / len(scores))


def _harmonic(scores: Scores) -> float:
    return statistics.harmonic_mean(scores)


def _quadratic(scores: Scores) -> float:
    return math.hypot(*scores) / math.sqrt(len(scores))


def _cubic(scores: Scores) -> float:
    return math.cbrt(statistics.fmean([score**3 for score in scores]))


def _over(first: Callable[[Scores], float], second: Callable[[Scores], float]) -> Callable[[Scores], float]:
    """`(first / second) * first`: the first mean, raised by how far the second lies below it."""
    return lambda scores: first(scores) ** 2 / second(scores)


TALLIES: Mapping[str, Callable[[Scores], float]] = {
    "arithmetic": statistics.fmean,
    "geometric": _geometric,
    "harmonic": _harmonic,
    "quadratic": _quadratic,
    "cubic": _cubic,
    "A/G": _over(statistics.fmean, _geometric),
    "G/H": _over(_geometric, _harmonic),
    "A/H": _over(statistics.fmean, _harmonic),
    "median": statistics.median,
    "min": min,
    "max": max,
    "mid-range": lambda scores: (min(scores) + max(scores)) / 2,
}
"""Name -> how the scores of a trial's images become one. `tally` checks what each can take."""

_NEEDS_POSITIVE = ("geometric", "A/G", "G/H", "A/H")
# The quadratic mean would turn the worst negative score into the best.
_NEEDS_NON_NEGATIVE = ("harmonic", "quadratic")


def check_tally(name: str) -> str:
    """`name` when it is the name of a tally; raises InputError listing the known names."""
    if name not in TALLIES:
        raise InputError(f"unknown tally {name!r}; known tallies: {', '.join(TALLIES)}")
    return name


def tally(name: str, scores: Scores) -> float:
    """The scores of a trial's images as one number, higher is better.

    Raises InputError for an unknown tally, no scores, a score that is not finite, a score <= 0 where a
    geometric mean or a quotient needs positive ones, and a score < 0 for harmonic and quadratic.
    """
    check_tally(name)
    if not scores:
        raise InputError(f"tally {name!r} of no scores; a trial needs at least one image")
    _check_finite(scores)
    lowest = min(scores)
    if (name in _NEEDS_POSITIVE and lowest <= 0) or (name in _NEEDS_NON_NEGATIVE and lowest < 0):
        wanted = "positive" if name in _NEEDS_POSITIVE else "non-negative"
        raise InputError(
            f"tally {name!r} needs {wanted} scores, one is {lowest}; "
            "take arithmetic, median, min, max or mid-range, or a scorer of that range"
        )
    return float(TALLIES[name](scores))


def combine(scores_by_scorer: Mapping[str, float], specs: Sequence[ScorerSpec]) -> float:
    """The weighted mean over scorers; a scorer with `reverse` counts with its sign turned.

    Raises InputError for no scorers, one named twice, a scorer without a score or a score without a
    scorer, and a score that is not finite.
    """
    names = [spec.scorer for spec in specs]
    if not names:
        raise InputError("no scorers; give at least one")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"scorers named twice: {', '.join(twice)}; name each once")
    if set(names) != set(scores_by_scorer):
        raise InputError(
            f"scores of {sorted(scores_by_scorer)} for the scorers {sorted(names)}; give one of each"
        )
    _check_finite(list(scores_by_scorer.values()))
    signed = ((-1.0 if spec.reverse else 1.0) * scores_by_scorer[spec.scorer] * spec.weight for spec in specs)
    return math.fsum(signed) / math.fsum(spec.weight for spec in specs)


def _check_finite(scores: Scores) -> None:
    for i, score in enumerate(scores):
        if not math.isfinite(score):
            raise InputError(f"score {i} is {score}; a failed image must fail its trial, not enter the mean")
