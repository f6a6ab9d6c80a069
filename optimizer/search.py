"""The search of one pair: which block weights to try next, and when to stop.

The next trial is a pure function of (settings, trial number, trials told so far): what a sampler knows is
built anew for every proposal from the trials that our own store kept, with a seed from (study seed, trial
number). A search that was killed twenty times proposes what an undisturbed one proposes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from statistics import fmean
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from threadpoolctl import ThreadpoolController

from optimizer.blocks import BlockWeights, uniform
from optimizer.choices import OF_A, UNIFORM, Choices, ChoiceSettings
from optimizer.drafts import DraftSettings
from optimizer.going_on import AHEAD, Outlook, outlook
from optimizer.samplers.choice import BY_SLOPES, SamplerName
from optimizer.samplers.evolution import evolved
from optimizer.samplers.gradient import climbed
from optimizer.samplers.of_optuna import OptunaSampler, sampled
from optimizer.samplers.told import ToldTrial, informative, score_of, seed_of
from optimizer.space import Point, Space, SpaceSettings
from optimizer.warm_start import (
    ImportedTrial,
    StartPoint,
    check_imported_once,
    check_start,
    rescaled,
    start_weights,
    weights_here,
)
from scoring.errors import InputError

__all__ = [
    "BASELINES",
    "FORESEEING",
    "MOST_TOLD",
    "Candidate",
    "SamplerName",
    "SearchSettings",
    "ToldTrial",
    "baseline_candidate",
    "baseline_name",
    "best_that_may_win",
    "best_trial",
    "carries_slopes",
    "expected_gain",
    "may_win",
    "next_trial",
    "propose",
    "stop_reason",
]

# Trials 0, 1 and 2 of every node: what a winner has to beat.
BASELINES: dict[str, float] = {"a": 0.0, "b": 1.0, "uniform": 0.5}

# How many trials inform a sampler: beyond, a proposal costs more than it gains. With 27 blocks GPSampler
# takes 0.5 s after 300 trials and 5 s after 1,000, TPE 0.15 s after 1,000 and 1.8 s after 10,000
# (`python -m benchmarks.propose --quick`). What is random needs to know none.
MOST_TOLD: dict[SamplerName, int] = {"gp": 300, "tpe": 1000, "random": 0}


FORESEEING = 400
"""How many trials tell what going on is worth: the best, and as many of the latest."""

# They move numbers alone.
_WITHOUT_CHOICES: tuple[SamplerName, ...] = ("cmaes", "gradient")


@dataclass(frozen=True)
class Candidate:
    """What a trial is to evaluate. choices: {} in a search without any."""

    weights: BlockWeights
    choices: Choices = field(default_factory=dict)


class SearchSettings(BaseModel):
    """How one pair is searched.

    The search ends at the first of `trials`, `seconds`, `patience` and `until_gain_per_hour`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sampler: SamplerName = Field(
        default="auto",
        description="auto: gradient where a scorer is differentiable, else gp; gradient: climbs by slopes, "
        "which make a trial take about four times as long; gp: Optuna's GPSampler; tpe; cmaes: CMA-ES around "
        "the uniform merge; random. docs/search-benchmark.md compares them.",
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
    until_gain_per_hour: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Stop when going on is expected to gain less than this, in score per hour of the "
        "device's time (docs/stopping.md). Not before the sampler has proposed ten trials that were scored.",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="The same seed gives the same trials.")
    racing: bool = Field(
        default=False,
        description="Stop a trial that falls behind the best one before all its probes are rendered "
        "(docs/stopping.md). Its estimate informs the sampler and never wins.",
    )
    drafts: DraftSettings | None = Field(
        default=None,
        description="Render a trial with fewer steps or smaller first, and whole only where that promises "
        "something (docs/stopping.md). {} takes half the steps.",
    )
    space: SpaceSettings = Field(
        default_factory=SpaceSettings,
        description="Constraints: blocks frozen, bounded, tied, symmetric, and elements of blocks with "
        "weights of their own (docs/constraints.md).",
    )
    choices: ChoiceSettings = Field(
        default_factory=ChoiceSettings,
        description="Parameters that are no numbers, searched together with the weights: "
        "{text_encoder: [a, b, uniform]}. Not with the samplers cmaes and gradient.",
    )
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
    def _check_drafts(self) -> SearchSettings:
        if self.drafts is not None and self.sampler == "gradient":
            raise ValueError(
                "drafts do not go with sampler gradient, whose trials are rendered whole for their slopes: "
                "leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _check_choices(self) -> SearchSettings:
        if self.choices.options and self.sampler in _WITHOUT_CHOICES:
            raise InputError(
                f"sampler {self.sampler} moves numbers alone and can't make `choices` "
                f"({', '.join(self.choices.options)}); take gp or tpe"
            )
        return self

    @model_validator(mode="after")
    def _check_warm_start(self) -> SearchSettings:
        check_imported_once(self.imported)
        check_start(self.start, self.imported)
        return self


def baseline_name(number: int) -> str | None:
    """ "a", "b", "uniform" for trials 0, 1, 2; None for a trial that the sampler proposes."""
    names = list(BASELINES)
    return names[number] if number < len(names) else None


def baseline_candidate(settings: SearchSettings, blocks: Sequence[str], name: str) -> Candidate:
    """A baseline of BASELINES by its name, with the choices of what it is."""
    return Candidate(uniform(blocks, BASELINES[name]), settings.choices.of_parents(name))


def propose(
    settings: SearchSettings,
    blocks: Sequence[str],
    number: int,
    told: Sequence[ToldTrial],
    *,
    noisy: bool = False,
) -> BlockWeights:
    """The weights of `next_trial`, for a search without choices."""
    return next_trial(settings, blocks, number, told, noisy=noisy).weights


def next_trial(
    settings: SearchSettings,
    blocks: Sequence[str],
    number: int,
    told: Sequence[ToldTrial],
    *,
    noisy: bool = False,
) -> Candidate:
    """What trial `number` is to evaluate: weights in [0, 1], one for every name in `blocks`, and choices.

    Baselines have the choices of what they are; start points and imported trials those of A. noisy: whether
    equal weights may score differently, as they do where people judge.
    """
    name = baseline_name(number)
    if name is not None:
        return baseline_candidate(settings, blocks, name)
    space = Space.of(settings.space, blocks)
    if number < _first_proposed(settings):
        point = start_weights(settings.start[number - len(BASELINES)], blocks, settings.imported)
        return Candidate(space.nearest(point), _choices_of_a(settings))
    before = sorted((t for t in told if t.number < number), key=lambda t: t.number)
    middle = uniform(blocks, BASELINES["uniform"])
    chosen = settings.choices.of_parents(UNIFORM)
    centre = Candidate(space.nearest(middle), settings.choices.nearest(chosen))
    outside = not (space.contains(middle) and settings.choices.contain(chosen))
    if outside and all(Candidate(t.weights, t.choices) != centre for t in before):
        # Every sampler is told the middle first: the uniform merge, or what is closest to it.
        return centre
    point, choices = _proposed(settings, space, number, before, noisy=noisy)
    return Candidate(space.weights(point), choices)


def _proposed(
    settings: SearchSettings, space: Space, number: int, before: Sequence[ToldTrial], *, noisy: bool
) -> tuple[Point, Choices]:
    """The point of the space and the choices that the sampler proposes, told of the trials within."""
    history = _within(settings, space, before)
    seed = seed_of(settings.seed, number)
    # Threads gain nothing on such small matrices; on a busy machine they wait for each other, ten times as
    # long as it takes.
    with _thread_pools().limit(limits=1):
        informing = [*_imported(settings, space, history), *history]
        name: OptunaSampler
        match settings.sampler:
            case "cmaes":
                own = [trial for trial in history if trial.number >= _first_proposed(settings)]
                return evolved(space.names, own, _as_told(settings, space), seed), {}
            case "auto" | "gradient":
                if any(trial.slopes is not None for trial in history):
                    return climbed(space.names, informing, seed), {}
                name = "gp"
            case other:
                name = other
        # Rendering is deterministic on one device, so equal weights give equal scores; those of an imported
        # trial come from elsewhere and agree only roughly, and estimates have an error.
        return sampled(
            name,
            space.names,
            informative(informing, MOST_TOLD[name]),
            seed,
            exact=not (noisy or settings.imported) and all(t.estimate is None for t in history),
            options=settings.choices.options,
        )


def carries_slopes(settings: SearchSettings, number: int) -> bool:
    """Whether trial `number` is to be told with slopes, where these can be had.

    From the uniform merge on: slopes at pure A and B, at the far ends, are not worth their price.
    """
    return settings.sampler in BY_SLOPES and number >= list(BASELINES).index("uniform")


def stop_reason(settings: SearchSettings, told: Sequence[ToldTrial], elapsed_seconds: float) -> str | None:
    """Why the search of this node is over, in words; None while it should go on."""
    if len(told) >= settings.trials:
        return f"all {settings.trials} trials are done"
    if settings.seconds is not None and elapsed_seconds >= settings.seconds:
        return f"the time budget of {settings.seconds:g} s is used up"
    return _no_improvement(settings, told) or _too_little_gain(settings, told)


def _no_improvement(settings: SearchSettings, told: Sequence[ToldTrial]) -> str | None:
    best = best_that_may_win(settings, told)
    if settings.patience is None or best is None:
        return None
    since = sum(t.number > max(best.number, _first_proposed(settings) - 1) for t in told)
    return f"no improvement in {since} trials" if since >= settings.patience else None


def _too_little_gain(settings: SearchSettings, told: Sequence[ToldTrial]) -> str | None:
    least = settings.until_gain_per_hour
    found = None if least is None else expected_gain(settings, told)
    if least is None or found is None or found.gain_per_hour is None or found.gain_per_hour >= least:
        return None
    return (
        f"going on is expected to gain {found.gain:.3g} in the next {found.trials} trials, "
        f"{found.gain_per_hour:.3g} an hour, less than the {least:g} an hour that were asked for"
    )


def expected_gain(settings: SearchSettings, told: Sequence[ToldTrial]) -> Outlook | None:
    """What the next trials are expected to gain, by the trials that ended; None while that is not known.

    It is not before ten proposals of the sampler have a score, or an estimate, and one that may win has one.
    What was imported of earlier searches has no part in it. FORESEEING of the trials have one: told the best
    and the latest FORESEEING of a search, by number, it says the same as told all of it.
    """
    best = best_that_may_win(settings, told)
    if best is None or best.score is None:
        return None
    first = _first_proposed(settings)
    space = Space.of(settings.space, list(best.weights))
    known = informative(_within(settings, space, told), FORESEEING)
    lately = [t.seconds for t in told if t.number >= first and t.seconds is not None][-AHEAD:]
    seconds = fmean(lately) if lately else None
    with _thread_pools().limit(limits=1):
        return outlook(
            settings.sampler, known, space.names, first=first, incumbent=best.score, seconds=seconds
        )


def best_that_may_win(settings: SearchSettings, told: Sequence[ToldTrial]) -> ToldTrial | None:
    """The best of the trials that can win; None when none of them has a score."""
    return best_trial([trial for trial in told if may_win(settings, trial.weights, trial.choices)])


def may_win(settings: SearchSettings, weights: BlockWeights, choices: Mapping[str, str]) -> bool:
    """Whether such a trial can win: a baseline outside the space, or of no option, is only to be beaten."""
    inside = settings.space.is_whole or Space.of(settings.space, list(weights)).contains(weights)
    return inside and settings.choices.contain(choices)


def best_trial(told: Sequence[ToldTrial]) -> ToldTrial | None:
    """The trial with the highest score, the earliest of equals; None when none succeeded."""
    scored = [t for t in told if t.score is not None]
    return max(scored, key=lambda t: (t.score, -t.number), default=None)


def _within(settings: SearchSettings, space: Space, told: Sequence[ToldTrial]) -> list[ToldTrial]:
    """The trials that inform a sampler, as it is told them: those that the search may try."""
    return [
        _in_space(trial, space)
        for trial in told
        if trial.informs and space.contains(trial.weights) and settings.choices.contain(trial.choices)
    ]


def _in_space(trial: ToldTrial, space: Space) -> ToldTrial:
    """A trial as samplers are told it: at a point of the space, and one that was stopped by its estimate."""
    return replace(
        trial,
        weights=space.point(trial.weights),
        score=trial.score if trial.estimate is None else trial.estimate.score,
        slopes=None if trial.slopes is None else space.slopes(trial.slopes),
    )


def _as_told(settings: SearchSettings, space: Space) -> list[ToldTrial]:
    """The imported trials as told ones, with numbers before this search's first.

    One outside the space stands at the nearest point of it: imported scores are rough in any case.
    """
    return [
        ToldTrial(
            number - len(settings.imported),
            space.point(weights_here(t.weights, space.blocks)),
            t.score,
            choices=_choices_of_a(settings),
        )
        for number, t in enumerate(settings.imported)
    ]


def _imported(settings: SearchSettings, space: Space, own: Sequence[ToldTrial]) -> list[ToldTrial]:
    """The imported trials that inform a sampler beside `own`, the scored trials of this search so far.

    Those scale the imported ones' scores; and points that were evaluated here, or that are those of another
    imported trial, are not told twice.
    """
    scores: list[float] | None = [trial.score for trial in settings.imported]
    if settings.imported and settings.imported_scores == "rescaled":
        scores = rescaled([trial.score for trial in settings.imported], [score_of(trial) for trial in own])
    known = {_place(trial, space) for trial in own}
    told: list[ToldTrial] = []
    for trial, score in zip(_as_told(settings, space), scores or [], strict=False):
        if (where := _place(trial, space)) not in known:
            known.add(where)
            told.append(replace(trial, score=score))
    return told


def _place(trial: ToldTrial, space: Space) -> tuple[tuple[float, ...], tuple[str, ...]]:
    return tuple(trial.weights[name] for name in space.names), tuple(trial.choices.values())


def _choices_of_a(settings: SearchSettings) -> Choices:
    """What weights come with that say nothing of choices."""
    return settings.choices.nearest(settings.choices.of_parents(OF_A))


def _first_proposed(settings: SearchSettings) -> int:
    """The number of the first trial that the sampler proposes."""
    return len(BASELINES) + len(settings.start)


@cache
def _thread_pools() -> ThreadpoolController:
    # It finds what is loaded, and Optuna loads these two as late as it can.
    import scipy.optimize  # noqa: F401
    import torch  # noqa: F401

    return ThreadpoolController()
