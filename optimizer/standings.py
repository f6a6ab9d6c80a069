"""Who is better than whom, from the scores that combinations of components had on the same probes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from scoring.reward import image_scores, measure
from scoring.scorers.base import ScorerSpec

Name = TypeVar("Name")

CHANCE = 0.05
"""How often a component that is like the others may stand out all the same."""


class Combination(NamedTuple):
    """The UNet of one model with the text encoder of another, by their names."""

    unet: str
    text_encoder: str


Axis = Literal["unet", "text_encoder"]
Raw = Mapping[Combination, Sequence[Mapping[str, float]]]
"""Combination -> for every probe, scorer -> its raw number."""


class Mean(NamedTuple):
    """A mean over probes and its standard error; None for the mean of one."""

    value: float
    error: float | None


@dataclass(frozen=True)
class Ranked:
    """What a combination scored. score: as a job would tell; scorers: their raw numbers.

    rank: 1 for the best; those of the same score share theirs.
    """

    combination: Combination
    rank: int
    score: Mean
    scorers: Mapping[str, Mean]


@dataclass(frozen=True)
class Standing:
    """How one UNet or text encoder stands beside the others of its kind.

    score: its mean over probes and partners. gain: the mean over probes of how much better it was than the
    mean of its kind, on the same probe with the same partners. That all have easy and hard probes in common
    does not count as error here, as it does in the score's.
    """

    name: str
    rank: int
    score: float
    gain: Mean
    probes: int

    @property
    def stands_out(self) -> bool:
        """Whether the gain lies further from 0 than chance would have it, by Student's t-test over probes."""
        from scipy.special import stdtrit

        if self.gain.error is None:
            return False
        bound = float(stdtrit(self.probes - 1, 1 - CHANCE / 2))
        return abs(self.gain.value) > bound * self.gain.error


def combined_scores(
    raw: Raw, specs: Sequence[ScorerSpec], *, normalise: bool
) -> dict[Combination, list[float]]:
    """The score of every image: of several scorers the weighted mean, normalised as a job does it.

    A job measures by its first leaf; here by all images of all combinations, so that no order counts. Raises
    InputError as `measure` and `combine`.
    """
    pooled = [one for combination in sorted(raw) for one in raw[combination]]
    scale = measure(pooled, specs) if normalise and len(specs) > 1 else None
    return {combination: image_scores(own, specs, scale) for combination, own in raw.items()}


def ranking(
    raw: Raw, scores: Mapping[Combination, Sequence[float]], specs: Sequence[ScorerSpec]
) -> list[Ranked]:
    """All combinations, the best first; of equal ones by name."""
    means = {combination: mean(own) for combination, own in scores.items()}
    ranks = _ranks({combination: found.value for combination, found in means.items()})
    order = sorted(means, key=lambda combination: (ranks[combination], combination))
    return [
        Ranked(
            combination,
            ranks[combination],
            means[combination],
            {spec.scorer: mean([one[spec.scorer] for one in raw[combination]]) for spec in specs},
        )
        for combination in order
    ]


def standings(scores: Mapping[Combination, Sequence[float]], axis: Axis) -> list[Standing]:
    """All UNets or text encoders that have scores, the best first.

    Only partners that all of them have scores with count: none would be compared with the same otherwise. No
    such partner: no standings.
    """
    place = Combination._fields.index(axis)
    by_name: dict[str, dict[str, Sequence[float]]] = {}
    for combination, own in scores.items():
        by_name.setdefault(combination[place], {})[combination[1 - place]] = own
    shared = sorted(set.intersection(*(set(partners) for partners in by_name.values()))) if by_name else []
    if not shared:
        return []
    probes = range(len(next(iter(scores.values()))))
    of_probe = {
        name: [statistics.fmean(partners[partner][probe] for partner in shared) for probe in probes]
        for name, partners in by_name.items()
    }
    usual = [statistics.fmean(own[probe] for own in of_probe.values()) for probe in probes]
    values = {name: statistics.fmean(own) for name, own in of_probe.items()}
    ranks = _ranks(values)
    return [
        Standing(
            name,
            ranks[name],
            values[name],
            mean([score - of_all for score, of_all in zip(of_probe[name], usual, strict=True)]),
            len(probes),
        )
        for name in sorted(values, key=lambda name: (ranks[name], name))
    ]


def mean(values: Sequence[float]) -> Mean:
    """The mean, and its standard error from the sample standard deviation. Raises for no values."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Mean(statistics.fmean(values), error)


def _ranks(values: Mapping[Name, float]) -> dict[Name, int]:
    return {name: 1 + sum(other > value for other in values.values()) for name, value in values.items()}
