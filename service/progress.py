"""How far a job is: what `watch`, `run`, the API and the page show."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from service.db.records import NodeRecord
from service.db.states import JobState, NodeState, TrialState
from service.db.store import Store
from service.jobs import NodePlan
from service.results import gain, result_scores


class Output(BaseModel):
    """A merged checkpoint on the service's disk."""

    name: str
    path: str
    sha256: str
    size: int = Field(description="Bytes.")


class Best(BaseModel):
    """The best trial of the search so far."""

    number: int
    score: float
    weights: dict[str, float] = Field(description="Block name -> alpha; 0 is A, 1 is B.")


class NodeProgress(BaseModel):
    """One merge A + B -> O."""

    position: int
    a: str | None
    b: str | None
    output: str
    state: NodeState
    reason: str | None = Field(description="Why it failed or paused.")
    stop_reason: str | None = Field(description="Why the search ended.")
    notes: list[str] = Field(description="What the merge leaves out or assumes.")
    trials_done: int
    trials_failed: int
    trials_planned: int
    renders: int
    renders_per_second: float | None
    eta_seconds: float | None = Field(description="Of the search, at the pace so far.")
    scores: dict[str, float] = Field(description="search/ and heldout/ a, b, uniform, winner.")
    gain: float | None = Field(description="Best score above the best of A, B and uniform, on search probes.")
    heldout_gain: float | None = Field(description="The same on held-out probes.")
    best: Best | None
    checkpoint: Output | None


class JobProgress(BaseModel):
    """A job and how far it is."""

    id: str
    name: str
    state: JobState
    created_at: datetime
    ended_at: datetime | None
    nodes: list[NodeProgress]


def job_progress(store: Store, job_id: str) -> JobProgress:
    """Raises NotFound."""
    job = store.job(job_id)
    return JobProgress(
        id=job.id,
        name=job.name,
        state=job.state,
        created_at=job.created_at,
        ended_at=job.ended_at,
        nodes=[_node_progress(store, node) for node in store.nodes(job_id)],
    )


def _node_progress(store: Store, node: NodeRecord) -> NodeProgress:
    plan = NodePlan.model_validate(node.plan)
    counts = store.trial_counts(node.id)
    done, failed = counts.get(TrialState.DONE, 0), counts.get(TrialState.FAILED, 0)
    renders, seconds = store.render_totals(node.id)
    left = plan.search.trials - done - failed
    scores = result_scores(store, node.id)
    searching = node.state is NodeState.RUNNING and node.stop_reason is None
    return NodeProgress(
        position=node.position,
        a=node.a_model,
        b=node.b_model,
        output=node.output,
        state=node.state,
        reason=node.reason,
        stop_reason=node.stop_reason,
        notes=plan.notes,
        trials_done=done,
        trials_failed=failed,
        trials_planned=plan.search.trials,
        renders=renders,
        renders_per_second=renders / seconds if seconds else None,
        eta_seconds=seconds / renders * len(plan.probes) * left if searching and renders else None,
        scores=scores,
        gain=gain(scores, "search"),
        heldout_gain=gain(scores, "heldout"),
        best=_best(store, node),
        checkpoint=_output(store, node),
    )


def _best(store: Store, node: NodeRecord) -> Best | None:
    trial = store.best_trial(node.id)
    if trial is None or trial.score is None:
        return None
    return Best(number=trial.number, score=trial.score, weights=trial.weights)


def _output(store: Store, node: NodeRecord) -> Output | None:
    made = store.checkpoint(node.id)
    return (
        None if made is None else Output(name=made.name, path=made.path, sha256=made.sha256, size=made.size)
    )
