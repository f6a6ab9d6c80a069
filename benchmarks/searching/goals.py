"""The goals of the search, and where it stands: MISSED where it misses one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from benchmarks.searching.runs import Run
from benchmarks.searching.table import (
    Estimate,
    Runs,
    bootstrap,
    cost_to_reach,
    gain_over,
    of_family,
    renders_to_reach,
    shared,
    shown,
    truth_at,
)

WITHOUT_SLOPES, WITH_SLOPES = "gp", "gradient"
FEWEST = 10
"""Fewer paired objectives than these decide nothing."""
BUDGET = 100


def goals_table(runs: Sequence[Run]) -> Table:
    """One row per goal. Those of racing are measured by `benchmarks.racing`."""
    rough, zoo = of_family("rough", runs), of_family("zoo", runs)
    table = Table("figure", "goal", "by", "where it stands", "", "pairs", title="goals")

    def row(figure: str, goal: str, arm: str, estimate: Estimate | None, met: bool) -> None:
        count = "0" if estimate is None else str(estimate.count)
        table.add_row(figure, goal, arm, shown(estimate), verdict(estimate, met), count)

    for arm in (WITHOUT_SLOPES, WITH_SLOPES):
        for mark, goal in ((60, 0.20), (100, 0.12)):
            reached = renders_to_reach(rough, arm, "auto-MBW", mark)
            figure = f"renders to reach auto-MBW's score at {mark} (rough)"
            row(figure, f"<= {goal}", arm, reached, reached is not None and reached.value <= goal)
        gain = gain_over(rough, arm, "tpe", BUDGET)
        figure = f"gain over TPE at {BUDGET} renders (rough), sd"
        row(figure, ">= +1.0", arm, gain, gain is not None and gain.value >= 1.0)
    cost = cost_to_reach(zoo, WITH_SLOPES, "tpe", BUDGET)
    figure = f"zoo: cost to reach TPE's score at {BUDGET} trials, median"
    row(figure, "<= .15", WITH_SLOPES, cost, cost is not None and cost.value <= 0.15)
    higher = share_higher(zoo)
    figure = "zoo: share of pairs whose held-out score is higher than the best arm's without slopes"
    row(figure, ">= .8", WITH_SLOPES, higher, higher is not None and higher.value >= 0.8)
    uniform = held_out_gain(zoo)
    figure = "zoo: held-out gain over the uniform merge, median"
    row(figure, "> 0, interval too", WITH_SLOPES, uniform, uniform is not None and uniform.low > 0)
    return table


def share_higher(zoo: Runs) -> Estimate | None:
    """On how many pairs the arm with slopes ends higher, on held-out probes, than the best arm without: the
    one whose mean is highest."""
    others = [arm for arm in zoo if arm != WITH_SLOPES]
    names = shared(zoo, [WITH_SLOPES, *others])
    if not names or not others:
        return None
    best = max(others, key=lambda arm: np.mean([truth_at(zoo[arm][name], BUDGET) for name in names]))
    higher = np.array(
        [truth_at(zoo[WITH_SLOPES][name], BUDGET) > truth_at(zoo[best][name], BUDGET) for name in names]
    )
    return bootstrap(len(names), lambda chosen: float(higher[chosen].mean()))


def held_out_gain(zoo: Runs) -> Estimate | None:
    """The median over pairs of what the winner gains over the uniform merge on held-out probes."""
    gains = np.array([truth_at(run, BUDGET) for run in zoo.get(WITH_SLOPES, {}).values()])
    return bootstrap(len(gains), lambda chosen: float(np.median(gains[chosen]))) if len(gains) else None


def verdict(estimate: Estimate | None, met: bool) -> str:
    """met, MISSED, or that there are too few runs to say."""
    if estimate is None:
        return "not run"
    word = "met" if met else "MISSED"
    return word if estimate.count >= FEWEST else f"{word}, of fewer than {FEWEST}"
