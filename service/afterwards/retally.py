"""Another tally, or other weights of the scorers, over the stored renders of a job: which trial is best then?

Nothing is rendered and nothing is stored; the numbers are those that every image got when it was rendered
(and from `rescore` since).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from optimizer.search import baseline_name
from scoring.errors import InputError
from scoring.reward import Scale, check_tally, image_scores, tally
from scoring.scorers.base import ScorerSpec
from service.db.records import NodeRecord, RenderRecord, TrialRecord
from service.db.states import TrialKind, TrialState
from service.db.store import Store
from service.jobs import NodePlan
from service.nodes import merges_of
from service.scale import scale_of

SHOWN = 5
# A rank correlation of two trials is always 1 or -1.
CORRELATED_AT_LEAST = 3


class RetallyRequest(BaseModel):
    """How the images are to be judged anew."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"tally": "median", "weights": {"laion-v2": 0.5}}]}
    )

    tally: str | None = Field(default=None, description="The nodes' own if not given.")
    weights: dict[str, float] = Field(
        default_factory=dict,
        description="Scorer -> weight; a scorer that is not named keeps the weight of the job, 0 leaves one "
        "out. A scorer that `rescore` added, or that watches, counts once it is named here.",
    )
    node: str | None = Field(default=None, description="One merge by name or position; all if not given.")


class Retallied(BaseModel):
    """A search trial, judged as the job did and anew."""

    number: int
    baseline: str | None = Field(description="a, b or uniform, when it is one of these.")
    before: float = Field(description="The stored score.")
    after: float | None = Field(description="The score by the new tally and weights; null: not counted.")


class NotCounted(BaseModel):
    """A trial without a new score."""

    number: int
    reason: str


class NodeRetally(BaseModel):
    """One merge, judged anew."""

    node: str
    tally: str
    weights: dict[str, float] = Field(description="Scorer -> weight, as used.")
    counted: int = Field(description="Trials with a new score.")
    not_counted: list[NotCounted]
    best_before: Retallied | None = Field(description="The trial that is best by the stored scores.")
    best_after: Retallied | None = Field(description="The trial that is best by the new scores.")
    rank_correlation: float | None = Field(
        description="Spearman's, between stored and new scores; null for fewer than three trials, or when "
        "all of them score the same."
    )
    best: list[Retallied] = Field(description=f"The {SHOWN} best by the new scores.")


class Retally(BaseModel):
    """A job, judged anew; nothing of it was changed."""

    job: str
    nodes: list[NodeRetally]


def retally(store: Store, job_id: str, request: RetallyRequest) -> Retally:
    """Judge the search trials of a job's merges anew.

    Raises NotFound for an unknown job or merge; InputError for an unknown tally, a weight below 0, no scorer
    left, and a scorer that has no number for any image.
    """
    if request.tally is not None:
        check_tally(request.tally)
    nodes = merges_of(store, job_id, request.node)
    plans = [NodePlan.model_validate(node.plan) for node in nodes]
    renders = [store.node_renders(node.id, kinds=[TrialKind.SEARCH]) for node in nodes]
    _check_scored(request.weights, plans, renders)
    judged = zip(nodes, plans, renders, strict=True)
    return Retally(job=job_id, nodes=[_retally(store, node, plan, request, r) for node, plan, r in judged])


def probe_scores(
    renders: Sequence[RenderRecord], probes: int, specs: Sequence[ScorerSpec], scale: Scale | None
) -> list[float]:
    """The combined score of every probe of a trial, by probe.

    scale: as `service.scale.scale_of` gives it. Raises InputError naming what is missing, unless each of the
    probes has a render with a number of each scorer.
    """
    by_probe = {render.probe: render.scores for render in renders}
    missing = [probe for probe in range(probes) if probe not in by_probe]
    if missing:
        raise InputError(f"{len(missing)} of its {probes} renders are missing")
    for spec in specs:
        without = sum(spec.scorer not in scores for scores in by_probe.values())
        if without:
            raise InputError(f"{without} of its {probes} renders have no number of {spec.scorer}")
    return image_scores([by_probe[probe] for probe in range(probes)], specs, scale)


def weighed(
    specs: Sequence[ScorerSpec], judges: Mapping[str, ScorerSpec], weights: Mapping[str, float]
) -> list[ScorerSpec]:
    """The scorers of a plan with other weights, and those that did not count until now.

    judges: all that judged the images, by their names. Raises InputError if none is left.
    """
    wanted = {**{spec.scorer: spec.weight for spec in specs}, **weights}
    for name, weight in wanted.items():
        if not 0 <= weight < float("inf"):
            raise InputError(f"weights: {name} weighs {weight}; give 0, which leaves it out, or more")
    chosen = [
        judges.get(name, ScorerSpec(scorer=name)).model_copy(update={"weight": weight})
        for name, weight in wanted.items()
        if weight > 0
    ]
    if not chosen:
        raise InputError("weights: every scorer weighs 0; give at least one a weight above 0")
    return chosen


def _retally(
    store: Store,
    node: NodeRecord,
    plan: NodePlan,
    request: RetallyRequest,
    renders: Mapping[int, Sequence[RenderRecord]],
) -> NodeRetally:
    specs = weighed(plan.scorers, store.judges(node.id), request.weights)
    name = request.tally or plan.tally
    scale = scale_of(store, node.job_id, plan, specs)
    before: dict[int, float] = {}
    after: dict[int, float] = {}
    not_counted: list[NotCounted] = []
    trials = store.trials(node.id, kinds=[TrialKind.SEARCH])
    for trial in trials:
        if trial.score is not None:
            before[trial.number] = trial.score
        try:
            _check_done(trial)
            rendered = renders.get(trial.id, [])
            after[trial.number] = tally(name, probe_scores(rendered, len(plan.probes), specs, scale))
        except InputError as error:
            not_counted.append(NotCounted(number=trial.number, reason=str(error)))
    may_win = {trial.number for trial in trials if trial.may_win}
    best = [_retallied(number, before, after) for number in _best_first(after, may_win)[:SHOWN]]
    best_before = _best_first(before, may_win)
    return NodeRetally(
        node=node.name,
        tally=name,
        weights={spec.scorer: spec.weight for spec in specs},
        counted=len(after),
        not_counted=not_counted,
        best_before=_retallied(best_before[0], before, after) if best_before else None,
        best_after=best[0] if best else None,
        rank_correlation=_rank_correlation([before[number] for number in after], list(after.values())),
        best=best,
    )


def _check_done(trial: TrialRecord) -> None:
    if trial.state is not TrialState.DONE:
        raise InputError(
            f"it {trial.state.value}: {trial.reason}" if trial.reason else f"it is {trial.state.value}"
        )


def _best_first(scores: Mapping[int, float], among: Collection[int]) -> list[int]:
    """Those of the trial numbers `among` that have a score, by it, the earliest of equals first."""
    return sorted(scores.keys() & among, key=lambda number: (-scores[number], number))


def _retallied(number: int, before: Mapping[int, float], after: Mapping[int, float]) -> Retallied:
    baseline = baseline_name(number)
    return Retallied(number=number, baseline=baseline, before=before[number], after=after.get(number))


def _rank_correlation(before: Sequence[float], after: Sequence[float]) -> float | None:
    # scipy.stats takes a second to import, which no other command need pay.
    from scipy.stats import spearmanr

    if len(after) < CORRELATED_AT_LEAST or len(set(before)) == 1 or len(set(after)) == 1:
        return None
    return float(spearmanr(before, after).statistic)


def _check_scored(
    weights: Mapping[str, float], plans: Sequence[NodePlan], renders: Sequence[Mapping[int, Any]]
) -> None:
    found = {spec.scorer for plan in plans for spec in plan.scorers}
    found |= {name for node in renders for trial in node.values() for r in trial for name in r.scores}
    for name in weights:
        if name not in found:
            raise InputError(
                f"weights: no image of this job has a number of {name!r}; there are numbers of "
                f"{', '.join(sorted(found))}; `autombw rescore` adds a scorer's"
            )
