"""What the API answers, beside progress and inspections."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from optimizer.bracket import Bracket, levels, table
from service.db.records import EventRecord, NodeHead, NodeRender, RenderRecord, TrialRecord
from service.db.states import JobState, RenderState, TrialKind, TrialState
from service.leaves import AnyLeaf


class JobView(BaseModel):
    """A job in a list."""

    id: str
    name: str
    state: JobState
    priority: int
    created_at: datetime
    ended_at: datetime | None


class TrialView(BaseModel):
    """One set of block weights, and of choices where there are any, and what it scored."""

    id: int
    node: str = Field(description="Name of the node.")
    kind: TrialKind
    number: int
    state: TrialState
    weights: dict[str, float] = Field(description="Block or element -> alpha; 0 is A, 1 is B.")
    choices: dict[str, str] | None = Field(
        description="What it had that is no number, such as text_encoder: b; none without search.choices."
    )
    slopes: dict[str, float] | None = Field(
        description="d score / d weight by block; none where they were not computed (docs/search.md)."
    )
    score: float | None
    may_win: bool = Field(description="False for a baseline outside search.space: it is only to be beaten.")
    estimate: float | None = Field(
        description="What one that was stopped early would score; it has no score."
    )
    standard_error: float | None = Field(description="Of the estimate.")
    probes_seen: int | None = Field(description="How many of the probes a stopped trial was judged on.")
    reason: str | None = Field(description="Why it failed or was stopped.")
    seconds: float | None
    timings: dict[str, float] | None = Field(description="Seconds per stage.")
    means: dict[str, float] | None = Field(
        description="Raw number of every scorer that counts or watches, in the mean over the probes."
    )
    warnings: list[str] = Field(
        description="What the watch says, in words: the score rose while a watched scorer did not agree."
    )


class RenderView(BaseModel):
    """One probe under one trial."""

    probe: int
    image: str = Field(description="Path of the PNG on this server, while it is kept.")
    state: RenderState
    scores: dict[str, float]
    seconds: float


class JobRender(RenderView):
    """A render in the list of a node's."""

    id: int
    trial: int = Field(description="Id of its trial.")
    kind: TrialKind
    number: int = Field(description="Number of its trial.")


class TrialDetail(TrialView):
    """A trial with its renders."""

    renders: list[RenderView]


class EventView(BaseModel):
    """Something that changed."""

    id: int
    kind: str
    at: datetime
    data: dict[str, Any]


class ModelView(BaseModel):
    """A model of the models folder."""

    name: str
    size: int = Field(description="Bytes.")


class WorkerView(BaseModel):
    """A worker that holds a node now."""

    host: str
    process: int = Field(description="Its process on that host.")


class Health(BaseModel):
    """The service answers and its database does."""

    status: str = "ok"
    version: str | None = None
    workers: list[WorkerView] | None = Field(default=None, description="Workers that hold a node now.")


def event_view(event: EventRecord) -> EventView:
    """An event as it is told."""
    return EventView(**vars(event))


def worker_view(owner: str) -> WorkerView:
    """A worker by the name it leases under, `<host>:<process>:<random>`."""
    host, process, _ = owner.rsplit(":", 2)
    return WorkerView(host=host, process=int(process))


class Extend(BaseModel):
    """How much further to search."""

    trials: int = Field(ge=1, le=100_000, description="Trials more than there are.")


class AddLeaves(BaseModel):
    """Models to add."""

    leaves: list[AnyLeaf] = Field(
        min_length=1, description="Models of the models folder by name, or put together, as in a job."
    )


class Priority(BaseModel):
    """Which job comes first."""

    priority: int = Field(ge=-100, le=100, description="Higher comes first.")


class BracketRow(BaseModel):
    """One merge of a bracket: O = A + B."""

    o: str
    a: str = Field(description="A leaf, a node, or `best(…)` of several nodes.")
    b: str
    level: int = Field(description="1 merges leaves only.")


def bracket_rows(bracket: Bracket) -> list[BracketRow]:
    """The table of a bracket."""
    level = levels(bracket)
    return [BracketRow(**row, level=level[row["o"]]) for row in table(bracket)]


def trial_view(trial: TrialRecord, node: NodeHead) -> TrialView:
    """A trial of a node."""
    return TrialView(**{**vars(trial), "node": node.name, "warnings": trial.warnings or []})


def trial_detail(trial: TrialRecord, node: NodeHead, renders: list[RenderRecord]) -> TrialDetail:
    """The same with its renders."""
    shown = [render_view(render) for render in renders]
    return TrialDetail(**vars(trial_view(trial, node)), renders=shown)


def render_view(render: RenderRecord) -> RenderView:
    """A render of a trial."""
    return RenderView(image=f"/api/v1/images/{render.sha256}.png", **vars(render))


def job_render(render: NodeRender) -> JobRender:
    """A render of a node."""
    return JobRender(image=f"/api/v1/images/{render.sha256}.png", **vars(render))
