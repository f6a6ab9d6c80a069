"""The searches of other projects, run from their own packages (the `bench` extra).

Both take the objective and go on by themselves, so what ends them is BudgetSpent.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

from benchmarks.searching.runs import Recorder

# auto-MBW-rt: a grid of 0.1, `BayesianOptimizer` of its settings/optimizers.toml, one random point first.
GRID: tuple[float, ...] = tuple(float(alpha) for alpha in np.round(np.linspace(0.0, 1.0, 11), 8))
# But for its lattice of candidates: that file allows 10^7, which takes 16 GB here; the lattices of the real
# histories have up to 2^20 points.
HYPERACTIVE: Mapping[str, object] = {
    "xi": 0.3,
    "max_sample_size": 2**20,
    "sampling": {"random": 1_000_000},
    "rand_rest_p": 0,
}
# It is let go on where it proposes what it knows: such a proposal is not rendered again, and not counted.
_PROPOSALS_A_RENDER = 2

# sd-webui-bayesian-merger: its README advises `init_points 10`, and as many after them.
INIT_POINTS = 10
# Its search takes seconds a proposal, more with every one: it is compared up to here.
MOST_OF_BAYESIAN_MERGER = 30


def auto_mbw(recorder: Recorder, budget: int, seed: int) -> None:
    """hyperactive's BayesianOptimizer as auto-MBW-rt calls it.

    Its candidates are a random lattice: once it has begun it looks at the same few values of every weight,
    two for most, one for many.
    """
    from hyperactive import Hyperactive
    from hyperactive.optimizers import BayesianOptimizer

    space = {str(number): list(GRID) for number in range(len(recorder.blocks))}

    def score(chosen: Mapping[str, float]) -> float:
        return recorder.observe(
            {block: float(chosen[str(number)]) for number, block in enumerate(recorder.blocks)}
        )

    search = Hyperactive(verbosity=False, distribution="joblib", n_processes=1)
    search.add_search(
        score,
        space,
        optimizer=BayesianOptimizer(**HYPERACTIVE),
        n_iter=budget * _PROPOSALS_A_RENDER,
        initialize={"random": 1},
        memory=True,
        random_state=seed,
    )
    with warnings.catch_warnings(action="ignore"):
        search.run()


def bayesian_merger(recorder: Recorder, budget: int, seed: int) -> None:
    """bayesian-optimization with its defaults, as sd-webui-bayesian-merger calls it."""
    from bayes_opt import BayesianOptimization

    def score(**chosen: float) -> float:
        return recorder.observe({block: float(chosen[block]) for block in recorder.blocks})

    search = BayesianOptimization(
        f=score,
        pbounds=dict.fromkeys(recorder.blocks, (0.0, 1.0)),
        random_state=seed,
        verbose=0,
    )
    rest = min(budget, MOST_OF_BAYESIAN_MERGER) - INIT_POINTS
    with warnings.catch_warnings(action="ignore"):
        search.maximize(init_points=INIT_POINTS, n_iter=max(0, rest))
