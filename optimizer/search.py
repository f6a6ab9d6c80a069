"""The search of one pair: which block weights to try next, and when to stop.

The next trial is a pure function of (settings, trial number, trials told so far). Optuna forgets its
samplers' random state on restart (optuna#5919), so the study is built anew for every proposal from the
trials that our own store kept, with a sampler seeded from (study seed, trial number). A search that was
killed twenty times proposes what an undisturbed one proposes.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import BaseModel, ConfigDict, Field

from optimizer.blocks import BlockWeights, uniform

SamplerName = Literal["gp", "tpe", "cmaes", "random"]
# Trials 0, 1 and 2 of every node: what a winner has to beat.
BASELINES: dict[str, float] = {"a": 0.0, "b": 1.0, "uniform": 0.5}

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
    settings: SearchSettings, blocks: Sequence[str], number: int, told: Sequence[ToldTrial]
) -> BlockWeights:
    """The block weights of trial `number`, each in [0, 1], one for every name in `blocks`."""
    name = baseline_name(number)
    if name is not None:
        return uniform(blocks, BASELINES[name])
    history = sorted((t for t in told if t.number < number), key=lambda t: t.number)
    space: dict[str, BaseDistribution] = {block: FloatDistribution(0.0, 1.0) for block in blocks}
    study = optuna.create_study(direction="maximize")
    if settings.sampler == "cmaes":
        _replay(study, settings, space, history)
    else:
        study.add_trials([_frozen(trial, space) for trial in history])
    study.sampler = _sampler(settings, number)
    params = study.ask(space).params
    return {block: float(params[block]) for block in blocks}


def stop_reason(settings: SearchSettings, told: Sequence[ToldTrial], elapsed_seconds: float) -> str | None:
    """Why the search of this node is over, in words; None while it should go on."""
    if len(told) >= settings.trials:
        return f"all {settings.trials} trials are done"
    if settings.seconds is not None and elapsed_seconds >= settings.seconds:
        return f"the time budget of {settings.seconds:g} s is used up"
    best = best_trial(told)
    if settings.patience is None or best is None:
        return None
    since = sum(t.number > max(best.number, len(BASELINES) - 1) for t in told)
    return f"no improvement in {since} trials" if since >= settings.patience else None


def best_trial(told: Sequence[ToldTrial]) -> ToldTrial | None:
    """The trial with the highest score, the earliest of equals; None when none succeeded."""
    scored = [t for t in told if t.score is not None]
    return max(scored, key=lambda t: (t.score, -t.number), default=None)


def _seed(settings: SearchSettings, number: int) -> int:
    digest = hashlib.sha256(f"{settings.seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _sampler(settings: SearchSettings, number: int) -> BaseSampler:
    seed = _seed(settings, number)
    match settings.sampler:
        case "gp":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                # Rendering is deterministic on one device, so equal weights give equal scores.
                return GPSampler(seed=seed, deterministic_objective=True)
        case "tpe":
            return TPESampler(seed=seed, multivariate=True)
        case "cmaes":
            return CmaEsSampler(seed=seed, popsize=6)
        case "random":
            return RandomSampler(seed=seed)


def _frozen(trial: ToldTrial, space: dict[str, BaseDistribution]) -> FrozenTrial:
    return create_trial(
        state=TrialState.COMPLETE if trial.score is not None else TrialState.FAIL,
        value=trial.score,
        params=dict(trial.weights),
        distributions=space,
    )


def _replay(
    study: optuna.Study,
    settings: SearchSettings,
    space: dict[str, BaseDistribution],
    history: Sequence[ToldTrial],
) -> None:
    """Ask and tell the past again: CMA-ES keeps its state in the trials it proposed, nowhere else."""
    for trial in history:
        if baseline_name(trial.number) is not None:
            study.add_trial(_frozen(trial, space))
            continue
        study.sampler = _sampler(settings, trial.number)
        asked = study.ask(space)
        if trial.score is None:
            study.tell(asked, state=TrialState.FAIL)
        else:
            study.tell(asked, trial.score)
