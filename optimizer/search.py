"""The search of one pair: which block weights to try next, and when to stop.

The next trial is a pure function of (settings, trial number, trials told so far). Optuna forgets its
samplers' random state on restart (optuna#5919), so the study is built anew for every proposal from the
trials that our own store kept, with a sampler seeded from (study seed, trial number). A search that was
killed twenty times proposes what an undisturbed one proposes.

CMA-ES is asked without Optuna, whose sampler keeps the evolution in the trials that it proposed itself:
to bring it back, every trial has to be proposed again (30 s at 6,000 trials, growing with their square).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import create_trial
from pydantic import BaseModel, ConfigDict, Field, model_validator
from threadpoolctl import ThreadpoolController

from optimizer.blocks import BlockWeights, uniform
from optimizer.warm_start import (
    ImportedTrial,
    StartPoint,
    check_imported_once,
    check_start,
    rescaled,
    start_weights,
    weights_here,
)

if TYPE_CHECKING:
    from cmaes import CMA
    from numpy.typing import NDArray

SamplerName = Literal["gp", "tpe", "cmaes", "random"]
# Trials 0, 1 and 2 of every node: what a winner has to beat.
BASELINES: dict[str, float] = {"a": 0.0, "b": 1.0, "uniform": 0.5}

# How many trials inform a sampler: beyond, a proposal costs more than it gains. With 27 blocks GPSampler
# takes 0.5 s after 300 trials and 5 s after 1,000, TPE 0.15 s after 1,000 and 1.8 s after 10,000
# (`python -m benchmarks.propose --quick`). What is random needs to know none.
MOST_TOLD: dict[SamplerName, int] = {"gp": 300, "tpe": 1000, "random": 0}
# Of CMA-ES: how many trials are one generation.
POPULATION = 6
# WS-CMA-ES looks at the best tenth of what it is told.
_FEWEST_TO_BEGIN_WITH = 10

# A study per proposal would otherwise announce itself in the log every time.
optuna.logging.set_verbosity(optuna.logging.WARNING)


class SearchSettings(BaseModel):
    """How one pair is searched. The search ends at the first of `trials`, `seconds` and `patience`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sampler: SamplerName = Field(
        default="gp",
        description="gp: Optuna's GPSampler; tpe; cmaes: CMA-ES around the uniform merge; random.",
    )
    trials: int = Field(
        default=60, ge=1, description="Trials in all, the three baselines (A, B, 0.5) included."
    )
    seconds: float | None = Field(default=None, gt=0, description="Stop when the node has run for this long.")
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Stop after this many trials in a row that did not improve the best score.",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="The same seed gives the same trials.")
    start: list[StartPoint] = Field(
        default_factory=list,
        description="Block weights to try first, after the baselines: names of presets (GRAD_V, …), weights "
        "by block, or `history`, the best imported trial.",
    )
    imported: list[ImportedTrial] = Field(
        default_factory=list,
        description="Trials of an earlier search of this pair that inform the sampler. They are not "
        "rendered, count for no budget and never win. In a job file: `history: FILE`, of auto-MBW-rt.",
    )
    imported_scores: Literal["rescaled", "same"] = Field(
        default="rescaled",
        description="rescaled: to the mean and spread of this search's scores, as other scorers or prompts "
        "have other scales; same: they come from the same scorers and probes.",
    )

    @model_validator(mode="after")
    def _check_warm_start(self) -> SearchSettings:
        check_imported_once(self.imported)
        check_start(self.start, self.imported)
        return self


@dataclass(frozen=True)
class ToldTrial:
    """A trial that ended. `score` is None when it failed: it then informs nobody."""

    number: int
    weights: BlockWeights
    score: float | None


def baseline_name(number: int) -> str | None:
    """ "a", "b", "uniform" for trials 0, 1, 2; None for a trial that the sampler proposes."""
    names = list(BASELINES)
    return names[number] if number < len(names) else None


def propose(
    settings: SearchSettings,
    blocks: Sequence[str],
    number: int,
    told: Sequence[ToldTrial],
    *,
    noisy: bool = False,
) -> BlockWeights:
    """The block weights of trial `number`, each in [0, 1], one for every name in `blocks`.

    noisy: whether equal weights may score differently, as they do where people judge.
    """
    name = baseline_name(number)
    if name is not None:
        return uniform(blocks, BASELINES[name])
    if number < _first_proposed(settings):
        return start_weights(settings.start[number - len(BASELINES)], blocks, settings.imported)
    history = sorted((t for t in told if t.number < number and t.score is not None), key=lambda t: t.number)
    # Threads gain nothing on such small matrices; on a busy machine they wait for each other, ten times as
    # long as it takes.
    with _thread_pools().limit(limits=1):
        if settings.sampler == "cmaes":
            return _evolved(settings, blocks, number, history)
        told_before = _imported(settings, blocks, history)
        informing = informative([*told_before, *history], MOST_TOLD[settings.sampler])
        return _sampled(settings, blocks, number, informing, noisy=noisy)


def informative(history: Sequence[ToldTrial], most: int) -> list[ToldTrial]:
    """At most `most` of the trials, in the same order: the best ones, and as many of the latest others.

    history: trials with a score, by number.
    """
    best = sorted(history, key=_score, reverse=True)[: most - most // 2]
    kept = {trial.number for trial in best}
    others = [trial for trial in history if trial.number not in kept]
    kept.update(trial.number for trial in others[max(0, len(others) - most // 2) :])
    return [trial for trial in history if trial.number in kept]


def stop_reason(settings: SearchSettings, told: Sequence[ToldTrial], elapsed_seconds: float) -> str | None:
    """Why the search of this node is over, in words; None while it should go on."""
    if len(told) >= settings.trials:
        return f"all {settings.trials} trials are done"
    if settings.seconds is not None and elapsed_seconds >= settings.seconds:
        return f"the time budget of {settings.seconds:g} s is used up"
    best = best_trial(told)
    if settings.patience is None or best is None:
        return None
    since = sum(t.number > max(best.number, _first_proposed(settings) - 1) for t in told)
    return f"no improvement in {since} trials" if since >= settings.patience else None


def best_trial(told: Sequence[ToldTrial]) -> ToldTrial | None:
    """The trial with the highest score, the earliest of equals; None when none succeeded."""
    scored = [t for t in told if t.score is not None]
    return max(scored, key=lambda t: (t.score, -t.number), default=None)


def _score(trial: ToldTrial) -> float:
    assert trial.score is not None, "only trials with a score are told"
    return trial.score


def _seed(settings: SearchSettings, number: int) -> int:
    digest = hashlib.sha256(f"{settings.seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _sampled(
    settings: SearchSettings, blocks: Sequence[str], number: int, history: Sequence[ToldTrial], *, noisy: bool
) -> BlockWeights:
    """What Optuna's sampler proposes after `history`."""
    # One object for all: the storage copies every trial deeply, and a shared part only once.
    space: dict[str, BaseDistribution] = dict.fromkeys(blocks, FloatDistribution(0.0, 1.0))
    study = optuna.create_study(direction="maximize", sampler=_sampler(settings, number, noisy=noisy))
    study.add_trials(
        create_trial(value=trial.score, params=dict(trial.weights), distributions=space) for trial in history
    )
    params = study.ask(space).params
    return {block: float(params[block]) for block in blocks}


def _sampler(settings: SearchSettings, number: int, *, noisy: bool) -> BaseSampler:
    seed = _seed(settings, number)
    match settings.sampler:
        case "gp":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                # Rendering is deterministic on one device, so equal weights give equal scores; those of an
                # imported trial come from elsewhere and agree only roughly.
                return GPSampler(seed=seed, deterministic_objective=not settings.imported and not noisy)
        case "tpe":
            return TPESampler(seed=seed, multivariate=True)
        case _:
            return RandomSampler(seed=seed)


def _evolved(
    settings: SearchSettings, blocks: Sequence[str], number: int, history: Sequence[ToldTrial]
) -> BlockWeights:
    """What CMA-ES (Hansen 2016) proposes after `history`, of which every six proposals are a generation.

    It begins around the uniform merge, and again whenever it has converged.
    """
    own = [trial for trial in history if trial.number >= _first_proposed(settings)]
    seed = _seed(settings, number)
    evolution = _first_evolution(settings, blocks, seed)
    for start in range(0, len(own) - POPULATION + 1, POPULATION):
        evolution.tell([(_point(t, blocks), -_score(t)) for t in own[start : start + POPULATION]])
        if evolution.should_stop():
            evolution = _new_evolution(len(blocks), seed)
    return dict(zip(blocks, map(float, evolution.ask()), strict=True))


def _first_evolution(settings: SearchSettings, blocks: Sequence[str], seed: int) -> CMA:
    """Where the imported trials were good (WS-CMA-ES, Nomura et al. 2021); else as every new one begins.

    It asks the order of their scores alone, so their scale does not matter.
    """
    if len(settings.imported) < _FEWEST_TO_BEGIN_WITH:
        return _new_evolution(len(blocks), seed)
    from cmaes import CMA, get_warm_start_mgd

    earlier = [(_here(trial, blocks), -trial.score) for trial in settings.imported]
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


def _imported(settings: SearchSettings, blocks: Sequence[str], own: Sequence[ToldTrial]) -> list[ToldTrial]:
    """The imported trials as told ones, with numbers before this search's first.

    own: the scored trials of this search so far. Their scores scale the imported ones; and weights that were
    evaluated here, or that are those of another imported trial in these blocks, are not told twice.
    """
    scores: list[float] | None = [trial.score for trial in settings.imported]
    if settings.imported and settings.imported_scores == "rescaled":
        scores = rescaled([trial.score for trial in settings.imported], [_score(trial) for trial in own])
    known = {tuple(trial.weights[block] for block in blocks) for trial in own}
    told: list[ToldTrial] = []
    for number, (trial, score) in enumerate(zip(settings.imported, scores or [], strict=False)):
        weights = weights_here(trial.weights, blocks)
        if (point := tuple(weights.values())) not in known:
            known.add(point)
            told.append(ToldTrial(number - len(settings.imported), weights, score))
    return told


def _first_proposed(settings: SearchSettings) -> int:
    """The number of the first trial that the sampler proposes."""
    return len(BASELINES) + len(settings.start)


def _here(trial: ImportedTrial, blocks: Sequence[str]) -> NDArray[np.float64]:
    return np.array(list(weights_here(trial.weights, blocks).values()))


def _point(trial: ToldTrial, blocks: Sequence[str]) -> NDArray[np.float64]:
    return np.array([trial.weights[block] for block in blocks])


@cache
def _thread_pools() -> ThreadpoolController:
    # It finds what is loaded, and Optuna loads these two as late as it can.
    import scipy.optimize  # noqa: F401
    import torch  # noqa: F401

    return ThreadpoolController()
