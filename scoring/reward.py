"""Scores to the one number of a trial: the tally over its images and the weighted mean over scorers.

Several scorers are brought to one scale before they are weighed, or one that goes from 1 to 10 would drown
one that goes from 0 to 1. The scale is that of a fixed reference, the same for all that is ever compared: per
scorer, the mean and the standard deviation of its numbers for the reference's images. So an image's score is
one fixed affine function of its raw numbers, and scores compare wherever raw ones did: between the trials
of a search, its baselines among them, and between searches. Were each search normalised by its own
baselines, a search between poor checkpoints would look as good as one between good ones.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
TALLIES_OF_ANY_SIGN = tuple(name for name in TALLIES if name not in (*_NEEDS_POSITIVE, *_NEEDS_NON_NEGATIVE))
"""Those that take normalised scores, of which half lie below 0."""

# Below this share of the numbers themselves a spread is rounding in float32, not a judgement.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Spread:
    """Where a scorer's numbers lie, in its own units: their mean and their standard deviation, > 0."""

    centre: float
    spread: float

    def normalised(self, score: float) -> float:
        """How many standard deviations `score` lies above the mean."""
        return (score - self.centre) / self.spread


Scale = Mapping[str, Spread]
"""Scorer -> what its numbers are measured by."""


def measure(reference: Sequence[Mapping[str, float]], specs: Sequence[ScorerSpec]) -> Scale:
    """The scale of these scorers, from the raw numbers of the reference's images (image by image).

    Spread is the sample standard deviation over images. Of two images it is a rough guess (with n images its
    own standard error is about 1 / sqrt(2 (n - 1)) of it: 24 % for ten), and yet one and the same number for
    all that is compared: a wrong guess shifts the weights of the scorers and nothing else. More checkpoints
    in the reference would hardly help: their images of the same probes go up and down together.

    Raises InputError for fewer than two images, one without a number of a scorer, and a scorer that gives all
    images the same number.
    """
    if len(reference) < 2:
        raise InputError(
            f"several scorers are normalised by their spread over the probes, and there is {len(reference)}; "
            "give two probes or more (better ten), or normalise: false for a mean of raw numbers"
        )
    return {spec.scorer: _spread(spec.scorer, reference) for spec in specs}


def _spread(scorer: str, reference: Sequence[Mapping[str, float]]) -> Spread:
    without = sum(scorer not in scores for scores in reference)
    if without:
        raise InputError(
            f"{without} of the {len(reference)} images of the reference lack a number of {scorer}"
        )
    numbers = [scores[scorer] for scores in reference]
    _check_finite(numbers)
    spread = statistics.stdev(numbers)
    if spread <= _ROUNDING * max(map(abs, numbers)):
        raise InputError(
            f"{scorer} gives all {len(numbers)} images of the reference {numbers[0]:.6g}: it has no spread "
            "to be normalised by; leave it out, look whether it is what it should be, or set normalise: false"
        )
    return Spread(statistics.fmean(numbers), spread)


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


def combine(
    scores_by_scorer: Mapping[str, float], specs: Sequence[ScorerSpec], scale: Scale | None = None
) -> float:
    """The weighted mean over scorers; a scorer with `reverse` counts with its sign turned.

    scale: what each number is normalised by first; raw numbers without it.

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
    measured = {
        name: score if scale is None else scale[name].normalised(score)
        for name, score in scores_by_scorer.items()
    }
    signed = ((-1.0 if spec.reverse else 1.0) * measured[spec.scorer] * spec.weight for spec in specs)
    return math.fsum(signed) / math.fsum(spec.weight for spec in specs)


def rates(specs: Sequence[ScorerSpec], scale: Scale | None = None) -> dict[str, float]:
    """Scorer -> d `combine` / d its raw number: how much the score of an image rises with it."""
    whole = math.fsum(spec.weight for spec in specs)
    signed = {spec.scorer: (-spec.weight if spec.reverse else spec.weight) / whole for spec in specs}
    return {name: rate if scale is None else rate / scale[name].spread for name, rate in signed.items()}


def image_scores(
    raw: Sequence[Mapping[str, float]], specs: Sequence[ScorerSpec], scale: Scale | None = None
) -> list[float]:
    """`combine` of every image's raw numbers; numbers of other scorers are left out."""
    names = [spec.scorer for spec in specs]
    return [combine({name: scores[name] for name in names}, specs, scale) for scores in raw]


def _check_finite(scores: Scores) -> None:
    for i, score in enumerate(scores):
        if not math.isfinite(score):
            raise InputError(f"score {i} is {score}; a failed image must fail its trial, not enter the mean")
