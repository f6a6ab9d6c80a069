"""Reward-hacking watch: a score that rises while what nobody optimises gets worse.

A search finds whatever raises its score, faults of the scorer among it: noise that a classifier takes for
detail, glare that an aesthetic predictor likes. So other scorers judge the same images without counting, and
a trial that beats every baseline is compared with the baselines by them, probe by probe on the same seeds:

- a **second opinion** (any scorer; higher is better) against the baseline of the best score, which is what
  one would take otherwise. It warns when it falls.
- a **guard** (a statistic of the image such as sharpness, of which neither more nor less is better) against
  all baselines: they show what is usual for these checkpoints, and what lies between them is. It warns when
  it leaves their range, upwards or downwards; what is told is the distance to the nearest one.

A change counts when it is neither chance nor too small to be seen. Chance: the one-sided paired t-test over
probes (Student 1908), `t = mean(d) / (s(d) / sqrt(n))` with n - 1 degrees of freedom; d is the difference of
a probe's two numbers, for a guard relative to their mean, `2 (x - y) / (|x| + |y|)`, since sharpness differs
between prompts by powers of ten. With few probes only the grossest change is told from chance: t must be
318 with 2 probes, 10.2 with 4, 4.8 with 8, 3.5 with 24; with one probe nothing can be told.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scoring.scorers.base import ScorerSpec

CHANCE = 0.001
"""How often a change that is none may be called one: small, because every trial is looked at."""
OPINION_CHANGE = 0.2
"""Least fall of a second opinion, in standard deviations of its numbers over the baseline's probes: what
Cohen (1988) calls a small effect. With hundreds of probes even less is no chance, and yet means nothing."""
GUARD_CHANGE = 0.1
"""Least relative change of a guard."""


@dataclass(frozen=True)
class Judged:
    """A set of images by its name. score: the optimised one; raw: scorer -> number, probe by probe."""

    name: str
    score: float
    raw: Sequence[Mapping[str, float]]

    def numbers(self, scorer: str) -> list[float]:
        """A scorer's numbers, by probe."""
        return [scores[scorer] for scores in self.raw]


@dataclass(frozen=True)
class Change:
    """How paired numbers differ. mean: of the differences; error: its standard error."""

    mean: float
    error: float
    probes: int

    @property
    def times(self) -> float:
        """The mean in standard errors: Student's t, infinite where all probes change by the same."""
        return self.mean / self.error if self.error else math.copysign(math.inf, self.mean)

    def is_chance(self) -> bool:
        """Whether so large a mean, in its direction, comes by chance more often than `CHANCE`."""
        # 0.3 s to import, which only who has a change to judge need pay.
        from scipy.special import stdtr

        if self.probes < 2 or not self.mean:
            return True
        return bool(stdtr(self.probes - 1, -abs(self.times)) > CHANCE)


def watch_warnings(
    trial: Judged, baselines: Sequence[Judged], watched: Sequence[ScorerSpec], guards: Collection[str]
) -> list[str]:
    """What people should know of a trial, in words; empty unless its score is above every baseline's.

    baselines: on the trial's probes, in the same order. guards: names of those in `watched` that are guards.
    """
    best = max(baselines, key=lambda baseline: baseline.score, default=None)
    if best is None or trial.score <= best.score:
        return []
    rise = f"score rose by {_amount(trial.score - best.score)} above {best.name}"
    changes = _changes(trial, best, baselines, watched, guards)
    return [f"{rise} while {change}: look at the images" for change in changes]


def _changes(
    trial: Judged,
    best: Judged,
    baselines: Sequence[Judged],
    watched: Sequence[ScorerSpec],
    guards: Collection[str],
) -> Iterator[str]:
    for spec in watched:
        if spec.scorer in guards:
            yield from _guard_left(spec.scorer, trial, baselines)
        else:
            yield from _opinion_fell(spec, trial, best)


def _opinion_fell(spec: ScorerSpec, trial: Judged, best: Judged) -> Iterator[str]:
    name = spec.scorer
    now, before = trial.numbers(name), best.numbers(name)
    worse = -1.0 if spec.reverse else 1.0
    change = paired([x - y for x, y in zip(now, before, strict=True)])
    fall = -worse * change.mean
    if fall <= 0 or change.is_chance() or fall < OPINION_CHANGE * stdev(before):
        return
    moved = "rose" if spec.reverse else "fell"
    turned = " (lower is better)" if spec.reverse else ""
    yield f"{name} {moved} by {_amount(fall)} to {_amount(fmean(now))}{turned}, {_times(change)}"


def _guard_left(name: str, trial: Judged, baselines: Sequence[Judged]) -> Iterator[str]:
    now = trial.numbers(name)
    changes = [(paired(relative(now, other.numbers(name))), other.name) for other in baselines]
    if len({change.mean > 0 for change, _ in changes}) > 1:
        return
    nearest, other = min(changes, key=lambda found: abs(found[0].mean))
    if nearest.is_chance() or abs(nearest.mean) < GUARD_CHANGE:
        return
    moved, end = ("rose", "highest") if nearest.mean > 0 else ("fell", "lowest")
    change = f"{name} {moved} {_percent(nearest.mean)} from the {end} of the baselines ({other})"
    yield f"{change}, {_times(nearest)}"


def paired(differences: Sequence[float]) -> Change:
    """The mean of paired differences and its standard error, `s / sqrt(n)`; 0 for a single one."""
    count = len(differences)
    error = stdev(differences) / math.sqrt(count) if count > 1 else 0.0
    return Change(fmean(differences), error, count)


def relative(now: Sequence[float], before: Sequence[float]) -> list[float]:
    """Differences relative to the mean size of the two, -2..2; 0 where both are 0."""
    pairs = zip(now, before, strict=True)
    return [2 * (x - y) / (abs(x) + abs(y)) if x or y else 0.0 for x, y in pairs]


def _percent(change: float) -> str:
    """A relative change d = 2 (x - y) / (x + y) as x / y - 1, in percent: x / y = (2 + d) / (2 - d)."""
    if change >= 2:
        return "from nothing"
    return f"by {100 * abs((2 + change) / (2 - change) - 1):.0f} %"


def _amount(value: float) -> str:
    return f"{value:.3g}"


def _times(change: Change) -> str:
    times = abs(change.times)
    return f"{times:.1f} times its standard error" if times < 100 else "by nearly the same on every probe"
