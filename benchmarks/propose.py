"""What a proposal costs: ours, on at most so many told trials, against the same Optuna sampler told them all.

Optuna has none that is told slopes. 27 blocks; the trials come ever closer to a peak, as those of a search
do. One in fifty failed. The best time of each counts. `python -m benchmarks.propose [--quick] [--json FILE]`
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import create_trial
from rich.console import Console
from rich.table import Table

from optimizer.blocks import BLOCKS
from optimizer.search import SamplerName, SearchSettings, ToldTrial, propose

TOLD: dict[SamplerName, tuple[int, ...]] = {
    "gp": (15, 60, 300, 1000),
    "gradient": (15, 60, 300, 1000),
    "tpe": (60, 1000, 10_000),
    "cmaes": (60, 300, 10_000),
    "random": (60, 10_000),
}
# Optuna's CMA-ES has to propose every trial again, in time that grows with their square.
MOST_REPLAYED = 300


def a_search(trials: int, with_slopes: bool = False) -> list[ToldTrial]:
    """Trials as a search tells them, or with the slopes of the same peak."""
    draw = random.Random(0)
    peak = {block: draw.random() for block in BLOCKS}
    told = []
    for number in range(trials):
        spread = 0.05 + 0.5 * 0.997**number
        weights = {block: min(1.0, max(0.0, draw.gauss(peak[block], spread))) for block in BLOCKS}
        height = 0.6 + 0.05 * math.exp(-sum((weights[block] - peak[block]) ** 2 for block in BLOCKS))
        slopes = {block: 2 * (0.6 - height) * (weights[block] - peak[block]) for block in BLOCKS}
        score = None if number % 50 == 7 else height
        told.append(ToldTrial(number, weights, score, slopes if with_slopes and score is not None else None))
    return told


def all_told(name: SamplerName, told: Sequence[ToldTrial]) -> None:
    """The proposal of Optuna's sampler in a study of all trials."""
    space: dict[str, BaseDistribution] = dict.fromkeys(BLOCKS, FloatDistribution(0.0, 1.0))
    study = optuna.create_study(direction="maximize", sampler=_sampler(name))
    scored = [trial for trial in told if trial.score is not None]
    if name == "cmaes":
        for trial in scored:
            study.tell(study.ask(space), trial.score)
    else:
        study.add_trials(
            create_trial(value=trial.score, params=dict(trial.weights), distributions=space)
            for trial in scored
        )
    assert len(study.ask(space).params) == len(BLOCKS)


def _sampler(name: SamplerName) -> BaseSampler:
    match name:
        case "gp":
            with warnings.catch_warnings(action="ignore"):
                return GPSampler(seed=0, deterministic_objective=True)
        case "tpe":
            return TPESampler(seed=0, multivariate=True)
        case "cmaes":
            return CmaEsSampler(seed=0, popsize=6)
        case _:
            return RandomSampler(seed=0)


def seconds(action: Callable[[], object], rounds: int) -> float:
    """The shortest of so many runs."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(name: SamplerName, count: int, rounds: int) -> dict[str, str | int | float | None]:
    """Seconds of both ways to propose the next trial after `count` others."""
    told = a_search(count, with_slopes=name == "gradient")
    settings = SearchSettings(sampler=name, trials=count + 1)
    replayed = name != "gradient" and (name != "cmaes" or count <= MOST_REPLAYED)
    return {
        "sampler": name,
        "told": count,
        "ours": seconds(lambda: propose(settings, BLOCKS, count, told), rounds),
        "all_told": seconds(lambda: all_told(name, told), rounds) if replayed else None,
    }


def main() -> None:
    """Print the table; --json FILE writes the numbers; --quick takes the best of three, not of ten."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--quick", action="store_true", help="fits in a minute or two")
    arguments = parser.parse_args()
    propose(SearchSettings(), BLOCKS, 20, a_search(20))  # warms up
    rounds = 3 if arguments.quick else 10
    found = [measure(name, count, rounds) for name, counts in TOLD.items() for count in counts]
    table = Table("sampler", "told", "ms a proposal", "ms, all of them told to Optuna")
    for row in found:
        ours, theirs = (
            "not run" if value is None else f"{float(value) * 1000:.0f}"
            for value in (row["ours"], row["all_told"])
        )
        table.add_row(str(row["sampler"]), str(row["told"]), ours, theirs)
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
