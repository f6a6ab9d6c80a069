"""Racing: a trial that falls behind the best one is stopped before all of its probes are rendered.

Probes are rendered in a random order that is fixed per node. After every batch the trial is compared with the
incumbent, the best trial so far, on the probes that both have: what makes a probe easy or hard for both
cancels (Maron & Moore 1997; F-race, Birattari et al. 2002). A trial that is stopped still informs the
sampler: the incumbent's scores are the effects of the probes, so that what was not rendered is expected at
the incumbent's score plus the difference so far, and the tally of the whole is an estimate with an error.

A decision is a pure function of stored scores, so that a search that was killed and resumed stops the same
trials after the same probes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

import numpy as np

from scoring.reward import tally

# A trial is stopped when it is this many standard errors behind: see docs/stopping.md for what was measured.
BEHIND = 1.5
# No decision on fewer probes, nor more often than this many times in a trial.
FEWEST = 4
LOOKS = 6
# How many probes' worth the spread over the earlier trials counts beside the trial's own.
_PRIOR_PROBES = 8
_STEP = 1e-3


@dataclass(frozen=True)
class Estimate:
    """What a trial that was stopped is expected to score on all probes.

    error: standard error of `score`. probes: how many it was judged on, 0 by a draft (optimizer/drafts.py).
    noise: how far a probe's difference to the incumbent strays, a standard deviation; None by a draft.
    """

    score: float
    error: float
    probes: int
    noise: float | None


@dataclass(frozen=True)
class Incumbent:
    """The trial to beat. scores: by probe."""

    number: int
    score: float
    scores: Sequence[float]


def probe_order(seed: int, probes: int) -> list[int]:
    """The order in which a node renders its probes: the same for all its trials."""
    order = list(range(probes))
    random.Random(f"racing/{seed}").shuffle(order)
    return order


def heats(order: Sequence[int]) -> list[list[int]]:
    """The probes in batches, after each of which it is decided whether to go on.

    They depend on the probes alone, not on how many fit a device: a search can be resumed on another one.
    """
    size = max(FEWEST, math.ceil(len(order) / LOOKS))
    return [list(order[start : start + size]) for start in range(0, len(order), size)]


def probe_noise(incumbent: Incumbent, whole: Sequence[Sequence[float]]) -> float | None:
    """How far a probe's difference to the incumbent strays from that of its trial: a standard deviation.

    whole: the scores by probe of the trials that were rendered whole. None when there is none but the
    incumbent or a single probe.
    """
    if len(incumbent.scores) < 2:
        return None
    differences = np.asarray(whole, float) - np.asarray(incumbent.scores)
    others = differences[differences.any(axis=1)]
    return float(np.median(others.std(axis=1, ddof=1))) if len(others) else None


def estimate(seen: Mapping[int, float], incumbent: Incumbent, noise: float, tally_name: str) -> Estimate:
    """What a trial is expected to score, from the probes that were rendered (probe -> score).

    noise: of `probe_noise`; the trial's own spread is weighed in. The error is that of the differences on
    the probes not seen, carried through the tally by its slopes. Raises InputError as `tally`.
    """
    differences = [score - incumbent.scores[probe] for probe, score in seen.items()]
    ahead, probes = fmean(differences), range(len(incumbent.scores))
    expected = [seen.get(probe, incumbent.scores[probe] + ahead) for probe in probes]
    own = variance(differences) if len(differences) > 1 else 0.0
    weight = len(differences) - 1
    deviation = math.sqrt((_PRIOR_PROBES * noise**2 + weight * own) / (_PRIOR_PROBES + weight))
    score = tally(tally_name, expected)
    slopes = [_slope(tally_name, expected, score, probe, deviation) for probe in probes if probe not in seen]
    # Each unseen probe strays on its own, and all with the mean difference that they were expected by.
    error = deviation * math.sqrt(math.fsum(s * s for s in slopes) + math.fsum(slopes) ** 2 / len(seen))
    return Estimate(score, error, len(seen), deviation)


def is_behind(found: Estimate, incumbent: Incumbent) -> bool:
    """Whether a trial will hardly beat the incumbent: then the rest of it is not rendered."""
    return found.score < incumbent.score - BEHIND * found.error


def _slope(name: str, scores: Sequence[float], score: float, probe: int, deviation: float) -> float:
    step = _STEP * (deviation or 1.0)
    moved = [value + step * (i == probe) for i, value in enumerate(scores)]
    return (tally(name, moved) - score) / step
