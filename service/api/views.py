"""What the API answers, beside progress and inspections."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from service.db.records import RenderRecord, TrialRecord
from service.db.states import JobState, TrialKind, TrialState


class JobView(BaseModel):
    """A job in a list."""

    id: str
    name: str
    state: JobState
    created_at: datetime
    ended_at: datetime | None


class TrialView(BaseModel):
    """One set of block weights and what it scored."""

    id: int
    node: int = Field(description="Position of the node in its job.")
    kind: TrialKind
    number: int
    state: TrialState
    weights: dict[str, float]
    score: float | None
    reason: str | None = Field(description="Why it failed.")
    seconds: float | None
    timings: dict[str, float] | None = Field(description="Seconds per stage.")


class RenderView(BaseModel):
    """One probe under one trial."""

    probe: int
    image: str = Field(description="Path of the PNG on this server.")
    scores: dict[str, float]
    seconds: float


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


class Health(BaseModel):
    """The service answers and its database does."""

    status: str = "ok"
    version: str
    workers: int = Field(description="Workers that hold a node now.")


def trial_view(trial: TrialRecord, position: int) -> TrialView:
    """A trial of the node at `position`."""
    return TrialView(node=position, **trial.model_dump(include=set(TrialView.model_fields) - {"node"}))


def trial_detail(trial: TrialRecord, position: int, renders: list[RenderRecord]) -> TrialDetail:
    """The same with its renders."""
    shown = [
        RenderView(probe=r.probe, image=f"/api/v1/images/{r.sha256}.png", scores=r.scores, seconds=r.seconds)
        for r in renders
    ]
    return TrialDetail(**trial_view(trial, position).model_dump(), renders=shown)
