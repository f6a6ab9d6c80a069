"""Samplers of Optuna: its Gaussian process, TPE, and random draws.

Optuna forgets its samplers' random state on restart (optuna#5919), so a study is built anew for every
proposal from the trials that are told.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import create_trial

from optimizer.blocks import BlockWeights
from optimizer.choices import Choices
from optimizer.samplers.told import ToldTrial

OptunaSampler = Literal["gp", "tpe", "random"]

# A study per proposal would otherwise announce itself in the log every time.
optuna.logging.set_verbosity(optuna.logging.WARNING)


def sampled(
    name: OptunaSampler,
    blocks: Sequence[str],
    told: Sequence[ToldTrial],
    seed: int,
    *,
    exact: bool,
    options: Mapping[str, Sequence[str]],
) -> tuple[BlockWeights, Choices]:
    """What Optuna's sampler proposes after `told`, trials with a score.

    exact: whether equal weights give equal scores. options: of every choice; each trial told has made them.
    """
    # One object for all: the storage copies every trial deeply, and a shared part only once.
    space: dict[str, BaseDistribution] = dict.fromkeys(blocks, FloatDistribution(0.0, 1.0))
    space |= {choice: CategoricalDistribution(among) for choice, among in options.items()}
    study = optuna.create_study(direction="maximize", sampler=_sampler(name, seed, exact))
    study.add_trials(
        create_trial(value=trial.score, params={**trial.weights, **trial.choices}, distributions=space)
        for trial in told
    )
    params = study.ask(space).params
    return {block: float(params[block]) for block in blocks}, {name: str(params[name]) for name in options}


def _sampler(name: OptunaSampler, seed: int, exact: bool) -> BaseSampler:
    match name:
        case "gp":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return GPSampler(seed=seed, deterministic_objective=exact)
        case "tpe":
            return TPESampler(seed=seed, multivariate=True)
        case "random":
            return RandomSampler(seed=seed)
