"""What the runs say: means over paired objectives with bootstrap intervals, and renders to reach a height."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.searching.runs import Run

MARKS = (30, 60, 100)
COMPARED = (
    ("gradient", "gp"),
    ("gradient", "tpe"),
    ("gp", "tpe"),
    ("gp", "auto-MBW"),
    ("random", "auto-MBW"),
    ("transfer", "local-gp"),
    ("transfer", "gp"),
    ("local-gp", "gp"),
)
"""Arms that are compared, each with the one that it should be above."""
RESAMPLES = 2000
Indices = NDArray[np.integer[Any]]
Runs = Mapping[str, Mapping[str, Run]]
"""Arm -> objective -> its run."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its bootstrap interval, and of how many paired objectives."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def of_family(family: str, runs: Sequence[Run]) -> Runs:
    """The runs of a family by arm and objective."""
    found: dict[str, dict[str, Run]] = {}
    for run in runs:
        if run.objective.startswith(f"{family}/"):
            found.setdefault(run.arm, {})[run.objective] = run
    return found


def shared(runs: Runs, arms: Sequence[str]) -> list[str]:
    """The objectives that every one of these arms has searched: comparisons are paired."""
    known = [set(runs.get(arm, {})) for arm in arms]
    return sorted(set.intersection(*known)) if known else []


def truth_at(run: Run, renders: float) -> float:
    """What the best-observed weights were worth after so many renders: NaN before the first mark."""
    return next((truth for mark, truth in reversed(run.truths) if mark <= renders), float("nan"))


def observed_at(run: Run, renders: float) -> float:
    """The best score that the search was told within so many renders."""
    return max(
        (score for score, cost in zip(run.observed, run.costs(), strict=True) if cost <= renders),
        default=float("nan"),
    )


def bootstrap(count: int, statistic: Callable[[Indices], float], level: float = 0.9) -> Estimate:
    """A statistic of objectives 0..count-1, with an interval from drawing them with replacement.

    statistic: is given indices, an array of ints.
    """
    random = np.random.default_rng(0)
    draws = [statistic(random.integers(0, count, count)) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return Estimate(float(statistic(np.arange(count))), float(low), float(high), count)


def mean_at(runs: Mapping[str, Run], objectives: Sequence[str], renders: float) -> Estimate:
    """The mean truth after so many renders."""
    values = np.array([truth_at(runs[name], renders) for name in objectives])
    return bootstrap(len(values), lambda chosen: float(values[chosen].mean()))


def gain_over(runs: Runs, arm: str, other: str, renders: float) -> Estimate | None:
    """The mean of one arm's truth less the other's, on the objectives that both have."""
    names = shared(runs, [arm, other])
    if not names:
        return None
    values = np.array(
        [truth_at(runs[arm][name], renders) - truth_at(runs[other][name], renders) for name in names]
    )
    return bootstrap(len(values), lambda chosen: float(values[chosen].mean()))


def renders_to_reach(runs: Runs, arm: str, other: str, renders: int) -> Estimate | None:
    """The renders after which an arm's mean curve passes what the other's mean is at `renders`, as a share
    of these. Infinite where it never does."""
    names = shared(runs, [arm, other])
    if not names:
        return None
    steps = range(1, renders + 1)
    curves = np.array([[truth_at(runs[arm][name], step) for step in steps] for name in names])
    heights = np.array([truth_at(runs[other][name], renders) for name in names])

    def share(chosen: Indices) -> float:
        reached = np.flatnonzero(curves[chosen].mean(0) >= heights[chosen].mean() - 1e-12)
        return float(steps[reached[0]] / renders) if len(reached) else float("inf")

    return bootstrap(len(names), share)


def cost_to_reach(runs: Runs, arm: str, other: str, renders: int) -> Estimate | None:
    """The median over pairs of the cost at which an arm's observed score passes the other's at `renders`, as
    a share of these. Infinite for a pair where it never does."""
    names = shared(runs, [arm, other])
    if not names:
        return None
    values = np.array(
        [_first_cost(runs[arm][name], observed_at(runs[other][name], renders)) / renders for name in names]
    )
    return bootstrap(len(values), lambda chosen: float(np.median(values[chosen])))


def _first_cost(run: Run, height: float) -> float:
    pairs = zip(run.observed, run.costs(), strict=True)
    return next((cost for score, cost in pairs if score >= height), float("inf"))


def family_table(family: str, runs: Sequence[Run]) -> Table | None:
    """One row per arm; None where the family has no runs. Each arm is averaged over what it has searched."""
    found = of_family(family, runs)
    if not found:
        return None
    unit = "held-out gain over uniform" if family == "zoo" else "gain in prior sd"
    table = Table(title=f"{family}: {unit}, mean [90 % interval]")
    for column in (
        "arm",
        *(f"@{mark}" for mark in MARKS),
        "renders to auto-MBW's @60",
        "@100",
        "CPU s a proposal",
        "runs",
    ):
        table.add_column(column)
    for arm, by_objective in found.items():
        names = sorted(by_objective)
        reach = [renders_to_reach(found, arm, "auto-MBW", mark) for mark in (60, 100)]
        table.add_row(
            arm,
            *(
                shown(mean_at(by_objective, names, mark)) if _went_on(by_objective, mark) else "-"
                for mark in MARKS
            ),
            *(shown(estimate) for estimate in reach),
            f"{seconds(by_objective.values()):.2f}",
            str(len(names)),
        )
    return table


def gains_table(family: str, runs: Sequence[Run]) -> Table | None:
    """How far arms are above others, objective by objective; None where the family has no two of them."""
    found = of_family(family, runs)
    table = Table("arm", "over", *(f"@{mark}" for mark in MARKS), title=f"{family}: paired gains [90 %]")
    for arm, other in COMPARED:
        gains = [gain_over(found, arm, other, mark) for mark in MARKS]
        if gains[-1] is not None:
            table.add_row(arm, other, *map(shown, gains))
    return table if table.row_count else None


def _went_on(by_objective: Mapping[str, Run], renders: int) -> bool:
    """Whether the arm was not ended long before so many renders."""
    return median(run.costs()[-1] for run in by_objective.values()) >= 0.8 * renders


def seconds(runs: Any) -> float:
    """The mean CPU time of a proposal."""
    taken = [each for run in runs for each in run.seconds]
    return sum(taken) / len(taken) if taken else float("nan")


def shown(estimate: Estimate | None) -> str:
    """For a table: a dash where there is nothing to compare with."""
    return "-" if estimate is None or np.isnan(estimate.value) else str(estimate)


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For a file: of every run the best score and the truth at some renders, its cost and its time."""
    return [
        {
            "objective": run.objective,
            "arm": run.arm,
            "trials": len(run.observed),
            "slopes": len(run.slopes),
            "slope_price": round(run.slope_price, 2),
            "observed": {mark: round(observed_at(run, mark), 4) for mark in MARKS},
            "truth": {mark: round(truth_at(run, mark), 4) for mark in MARKS},
            "median_seconds": round(median(run.seconds), 3) if run.seconds else None,
        }
        for run in runs
    ]
