"""Who searches: every sampler that autombw offers, and the simplest evolution strategy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

import numpy as np

from benchmarks.searching.peers import auto_mbw, bayesian_merger
from benchmarks.searching.runs import Recorder
from optimizer.search import SamplerName, SearchSettings, ToldTrial, propose

Arm = Callable[[Recorder, int, int], None]
"""Searches what a recorder hands it, with a budget of renders and a seed, until that raises BudgetSpent."""

# Of (1+1): the most block weights that one step changes, and the spread of a change.
_MOST_CHANGED, _STEP = 4, 0.3


def ours(sampler: SamplerName) -> Arm:
    """The search of autombw: baselines first, then what the sampler proposes. Slopes where it asks for them."""

    def run(recorder: Recorder, budget: int, seed: int) -> None:
        settings = SearchSettings(sampler=sampler, trials=budget, seed=seed)
        told: list[ToldTrial] = []
        while True:
            weights = propose(settings, recorder.blocks, len(told), told)
            told.append(ToldTrial(len(told), weights, recorder.observe(weights)))

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


def arms() -> Mapping[str, Arm]:
    """By name, the cheapest first."""
    offered: dict[str, Arm] = {name: ours(name) for name in get_args(SamplerName)}
    cheap: dict[str, Arm] = {name: offered.pop(name) for name in ("random", "tpe", "cmaes")}
    return {**cheap, "(1+1)": one_plus_one, **offered, "auto-MBW": auto_mbw, "bayesian-merger": bayesian_merger}
