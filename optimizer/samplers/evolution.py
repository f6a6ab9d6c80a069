"""CMA-ES (Hansen 2016) around the uniform merge.

It is asked without Optuna, whose sampler keeps the evolution in the trials that it proposed itself: to bring
it back, every trial has to be proposed again (30 s at 6,000 trials, growing with their square).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from optimizer.blocks import BlockWeights
from optimizer.samplers.told import ToldTrial, point, score_of

if TYPE_CHECKING:
    from cmaes import CMA

# How many trials are one generation.
POPULATION = 6
# WS-CMA-ES looks at the best tenth of what it is told.
_FEWEST_TO_BEGIN_WITH = 10


def evolved(
    blocks: Sequence[str], own: Sequence[ToldTrial], imported: Sequence[ToldTrial], seed: int
) -> BlockWeights:
    """What CMA-ES proposes after `own`, its own trials with a score, of which every six are a generation.

    imported: trials of an earlier search. It begins around the uniform merge, or where they were good, and
    around the uniform merge again whenever it has converged.
    """
    evolution = _first_evolution(blocks, imported, seed)
    for start in range(0, len(own) - POPULATION + 1, POPULATION):
        evolution.tell([(point(t, blocks), -score_of(t)) for t in own[start : start + POPULATION]])
        if evolution.should_stop():
            evolution = _new_evolution(len(blocks), seed)
    return dict(zip(blocks, map(float, evolution.ask()), strict=True))


def _first_evolution(blocks: Sequence[str], imported: Sequence[ToldTrial], seed: int) -> CMA:
    """Where the imported trials were good (WS-CMA-ES, Nomura et al. 2021); else as every new one begins.

    It asks the order of their scores alone, so their scale does not matter.
    """
    if len(imported) < _FEWEST_TO_BEGIN_WITH:
        return _new_evolution(len(blocks), seed)
    from cmaes import CMA, get_warm_start_mgd

    earlier = [(point(trial, blocks), -score_of(trial)) for trial in imported]
    mean, sigma, covariance = get_warm_start_mgd(earlier)
    return CMA(
        mean=mean,
        sigma=sigma,
        cov=covariance,
        bounds=np.array([[0.0, 1.0]] * len(blocks)),
        n_max_resampling=10 * len(blocks),
        seed=seed,
        population_size=POPULATION,
    )


def _new_evolution(dimensions: int, seed: int) -> CMA:
    """As Optuna begins it. The seed has a part in what is asked, none in what is told."""
    from cmaes import CMA  # here, as it loads scipy, which only a worker needs

    return CMA(
        mean=np.full(dimensions, 0.5),
        sigma=1 / 6,
        bounds=np.array([[0.0, 1.0]] * dimensions),
        n_max_resampling=10 * dimensions,
        seed=seed,
        population_size=POPULATION,
    )
