"""Who searches: every sampler that autombw offers, and the simplest evolution strategy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.searching.histories import fitted
from benchmarks.searching.peers import auto_mbw, bayesian_merger
from benchmarks.searching.runs import Recorder
from benchmarks.searching.transfer import Knowledge, knowledge, local_process
from optimizer.search import SamplerName, SearchSettings, ToldTrial, carries_slopes, propose
from scoring.errors import InputError

Arm = Callable[[Recorder, int, int], None]
"""Searches what a recorder hands it, with a budget of renders and a seed, until that raises BudgetSpent."""

# Of (1+1): the most block weights that one step changes, and the spread of a change.
_MOST_CHANGED, _STEP = 4, 0.3


def ours(sampler: SamplerName) -> Arm:
    """The search of autombw: baselines, then what the sampler proposes, with slopes where it asks."""

    def run(recorder: Recorder, budget: int, seed: int) -> None:
        settings = SearchSettings(sampler=sampler, trials=budget, seed=seed)
        told: list[ToldTrial] = []
        while True:
            number = len(told)
            weights = propose(settings, recorder.blocks, number, told)
            if carries_slopes(settings, number):
                told.append(ToldTrial(number, weights, *recorder.observe_slopes(weights)))
            else:
                told.append(ToldTrial(number, weights, recorder.observe(weights)))

    return run


def one_plus_one(recorder: Recorder, _budget: int, seed: int) -> None:
    """(1+1): from the uniform merge, 1 to 4 weights changed by N(0, .3); whatever is no worse is kept."""
    random = np.random.default_rng(seed)
    best = np.full(len(recorder.blocks), 0.5)
    height = recorder.observe(dict(zip(recorder.blocks, map(float, best), strict=True)))
    while True:
        changed = random.choice(len(best), random.integers(1, _MOST_CHANGED + 1), replace=False)
        tried = best.copy()
        tried[changed] = np.clip(tried[changed] + random.normal(0.0, _STEP, len(changed)), 0.0, 1.0)
        score = recorder.observe(dict(zip(recorder.blocks, map(float, tried), strict=True)))
        if score >= height:
            best, height = tried, score


PEERS: Mapping[str, Arm] = {"auto-MBW": auto_mbw, "bayesian-merger": bayesian_merger}
OURS: tuple[SamplerName, ...] = ("random", "tpe", "cmaes", "gp", "gradient")
"""Those that autombw offers. `auto` is gradient here: every objective has slopes."""


def arms(histories: Path | None = None) -> Mapping[str, Arm]:
    """By name, the cheapest first. histories: what `transfer` learns from; without, it can't be run."""

    def known(seed: int) -> Knowledge:
        if histories is None:
            raise InputError("the arm `transfer` learns from histories: name their folder, --histories DIR")
        return knowledge(histories, seed % len(fitted(histories)))

    own: dict[str, Arm] = {"local-gp": local_process(None), "transfer": local_process(known)}
    return {**{name: ours(name) for name in OURS}, "(1+1)": one_plus_one, **own, **PEERS}
