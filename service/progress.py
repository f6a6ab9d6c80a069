"""How far a job is: what `watch`, `run`, the API and the page show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, Field

from scoring.scorers.cards import is_voted
from service.confidence import Confidence, winner_confidence
from service.db.records import NodeRecord
from service.db.states import JobState, NodeKind, NodeState, TrialState
from service.db.store import Store
from service.db.tree import final_node
from service.going_on import GoingOn, going_on
from service.results import TreeScores, gain, result_scores, tree_scores, winner_warnings

# How many trials tell the pace: the baselines, without slopes, are much faster than what follows them.
LATELY = 5


class Output(BaseModel):
    """A merged checkpoint on the service's disk."""

    name: str
    path: str
    sha256: str
    size: int = Field(description="Bytes.")
    collected_at: datetime | None = Field(
        description="When its file was given up to make room; `export` makes the same one again."
    )


class Best(BaseModel):
    """The best trial of the search so far."""

    number: int
    score: float
    weights: dict[str, float] = Field(description="Block or element -> alpha; 0 is A, 1 is B.")
    choices: dict[str, str] = Field(description="What it has that is no number, such as text_encoder: b.")


class Votes(BaseModel):
    """How far the votes are that a merge waits for."""

    needed: int = Field(description="Votes that the search, or the held-out score, waits for.")
    there: int = Field(description="Votes of these that were cast.")
    total: int = Field(description="All votes on the merge, those that were counted before included.")


class NodeProgress(BaseModel):
    """One merge A + B -> O, checkpoints that are scored without a search, or a leaf put together."""

    position: int
    name: str = Field(description="The node's name in the bracket's table.")
    kind: NodeKind
    level: int = Field(description="1 merges leaves only; 0 is no merge.")
    final: bool = Field(description="Whether its output is the job's result.")
    a: str | None = Field(description="A leaf or a node; what the table says while that is not decided.")
    b: str | None
    output: str
    state: NodeState
    reason: str | None = Field(description="Why it failed or paused.")
    stop_reason: str | None = Field(description="Why the search ended.")
    notes: list[str] = Field(
        description="What the merge leaves out or assumes, what its runs met, and the warnings."
    )
    warnings: list[str] = Field(description="What the watch says of the best trial so far.")
    watched: list[str] = Field(description="The scorers that watch and do not count.")
    trials_done: int
    trials_failed: int
    trials_waiting: int = Field(description="Trials that are rendered and wait for votes.")
    trials_stopped: int = Field(
        description="By racing or their drafts, before all of their probes were rendered."
    )
    probe_noise: float | None = Field(
        description="How far a probe's difference to the best trial strays (a standard deviation), as racing "
        "measured it last."
    )
    trials_warned: int = Field(description="Trials of which the watch says something.")
    trials_planned: int
    renders: int
    renders_per_second: float | None
    eta_seconds: float | None = Field(description="Of the search, at the pace of its last trials.")
    scores: dict[str, float] = Field(description="search/ and heldout/ a, b, uniform, winner.")
    gain: float | None = Field(description="Best score above the best of A, B and uniform, on search probes.")
    heldout_gain: float | None = Field(description="The same on held-out probes.")
    confidence: Confidence | None = Field(
        description="That the winner beats A, B and the uniform merge, whichever is best."
    )
    going_on: GoingOn | None = Field(
        description="What the next trials are expected to gain; none while that is not known."
    )
    best: Best | None
    votes: Votes | None = Field(description="Where people judge: the votes it waits for, or has.")
    checkpoint: Output | None


class JobProgress(BaseModel):
    """A job and how far it is."""

    id: str
    name: str
    state: JobState
    priority: int
    created_at: datetime
    ended_at: datetime | None
    leaves: list[str]
    nodes: list[NodeProgress]
    result: TreeScores = Field(description="The final model beside the leaves and their uniform merge.")


@dataclass(frozen=True)
class Standing:
    """How a node stands: what stays as it is while renders are stored and nothing else happens."""

    counts: Mapping[TrialState, int]
    scores: dict[str, float]
    warnings: list[str]
    notices: list[str]
    probe_noise: float | None
    trials_warned: int
    confidence: Confidence | None
    going_on: GoingOn | None
    best: Best | None
    votes: Votes | None
    checkpoint: Output | None


def standing(store: Store, node: NodeRecord) -> Standing:
    """How a node stands now. All of it changes with an event of the node, or of its whole job."""
    return Standing(
        counts=store.trial_counts(node.id),
        scores=result_scores(store, node),
        warnings=winner_warnings(store, node),
        notices=store.notices(node.id),
        probe_noise=store.probe_noise(node.id),
        trials_warned=store.warned_trials(node.id),
        confidence=winner_confidence(store, node),
        going_on=going_on(store, node),
        best=_best(store, node),
        votes=_votes(store, node),
        checkpoint=_output(store, node),
    )


def job_progress(
    store: Store, job_id: str, standing_of: Callable[[Store, NodeRecord], Standing] = standing
) -> JobProgress:
    """How far a job is. standing_of: may give what is known of a node already. Raises NotFound."""
    job = store.job(job_id)
    nodes = store.nodes(job_id)
    standings = {node.id: standing_of(store, node) for node in nodes}
    scores = {node_id: stands.scores for node_id, stands in standings.items()}
    final = final_node(nodes).id
    return JobProgress(
        id=job.id,
        name=job.name,
        state=job.state,
        priority=job.priority,
        created_at=job.created_at,
        ended_at=job.ended_at,
        leaves=list(job.leaves),
        nodes=[
            _node_progress(store, nodes, node, standings[node.id], final=node.id == final) for node in nodes
        ],
        result=tree_scores(nodes, scores),
    )


def input_names(nodes: Sequence[NodeRecord], node: NodeRecord) -> tuple[str | None, str | None]:
    """What A and B of a node are: leaf or node, or the table's words while that is not decided."""
    by_id = {other.id: other.name for other in nodes}
    return (
        node.a_model or by_id.get(node.a_node_id or 0) or node.a_input,
        node.b_model or by_id.get(node.b_node_id or 0) or node.b_input,
    )


def trials_planned(node: NodeRecord) -> int:
    """Trials in all: those of the search, the one that scores a single checkpoint, or none."""
    if node.kind is NodeKind.MERGE:
        return int(node.plan["search"]["trials"])
    return 0 if node.kind is NodeKind.COMPOSE else 1


def _node_progress(
    store: Store, nodes: Sequence[NodeRecord], node: NodeRecord, stands: Standing, *, final: bool
) -> NodeProgress:
    done, failed, stopped, waiting = (
        stands.counts.get(state, 0)
        for state in (TrialState.DONE, TrialState.FAILED, TrialState.STOPPED, TrialState.WAITING)
    )
    renders, seconds = store.render_totals(node.id)
    planned = trials_planned(node)
    searching = node.state is NodeState.RUNNING and node.stop_reason is None
    a, b = input_names(nodes, node)
    ended = done + failed + stopped
    lately, lately_seconds = store.late_render_totals(node.id, ended - 1 - LATELY)
    # Racing renders less than all probes of a trial.
    probes = len(node.plan["probes"])
    left = (planned - ended) * (min(probes, renders / ended) if ended else probes)
    return NodeProgress(
        position=node.position,
        name=node.name,
        kind=node.kind,
        level=node.level,
        final=final,
        a=a,
        b=b,
        output=node.output,
        state=node.state,
        reason=node.reason,
        stop_reason=node.stop_reason,
        notes=[*node.plan["notes"], *stands.notices, *stands.warnings],
        warnings=stands.warnings,
        watched=[spec["scorer"] for spec in node.plan.get("watch", [])],
        trials_done=done,
        trials_failed=failed,
        trials_waiting=waiting,
        trials_stopped=stopped,
        probe_noise=stands.probe_noise,
        trials_warned=stands.trials_warned,
        trials_planned=planned,
        renders=renders,
        renders_per_second=renders / seconds if seconds else None,
        eta_seconds=lately_seconds / lately * left if searching and lately else None,
        scores=stands.scores,
        gain=gain(stands.scores, "search"),
        heldout_gain=gain(stands.scores, "heldout"),
        confidence=stands.confidence,
        going_on=stands.going_on,
        best=stands.best,
        votes=stands.votes,
        checkpoint=stands.checkpoint,
    )


def _best(store: Store, node: NodeRecord) -> Best | None:
    trial = store.best_trial(node.id)
    if trial is None or trial.score is None:
        return None
    return Best(number=trial.number, score=trial.score, weights=trial.weights, choices=trial.choices or {})


def _votes(store: Store, node: NodeRecord) -> Votes | None:
    if not any(is_voted(spec["scorer"]) for spec in node.plan["scorers"]) or node.kind is not NodeKind.MERGE:
        return None
    votes = store.votes(node.id)
    there = sum(vote.counted is None for vote in votes)
    needed = (node.votes_needed or 0) if node.state is NodeState.VOTING else 0
    return Votes(needed=needed, there=there, total=len(votes))


def _output(store: Store, node: NodeRecord) -> Output | None:
    made = store.checkpoint(node.id)
    return None if made is None else Output(**made.model_dump(include=set(Output.model_fields)))
