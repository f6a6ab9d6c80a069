"""What the store hands out: plain, immutable records, detached from any session."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from service.db.states import JobState, NodeState, TrialKind, TrialState


class Record(BaseModel):
    model_config = ConfigDict(from_attributes=True, frozen=True)


class JobRecord(Record):
    id: str
    name: str
    state: JobState
    request: dict[str, Any]
    created_at: datetime
    ended_at: datetime | None


class NodeRecord(Record):
    id: int
    job_id: str
    position: int
    state: NodeState
    a_model: str | None
    b_model: str | None
    a_sha256: str | None
    b_sha256: str | None
    output: str
    plan: dict[str, Any]
    reason: str | None
    stop_reason: str | None
    lease: int
    lease_owner: str | None
    started_at: datetime | None
    ended_at: datetime | None


class TrialRecord(Record):
    id: int
    node_id: int
    kind: TrialKind
    number: int
    state: TrialState
    weights: dict[str, float]
    score: float | None
    reason: str | None
    seconds: float | None
    timings: dict[str, float] | None
    created_at: datetime
    ended_at: datetime | None


class RenderRecord(Record):
    probe: int
    sha256: str
    seconds: float
    scores: dict[str, float]


class CheckpointRecord(Record):
    id: int
    node_id: int | None
    name: str
    path: str
    sha256: str
    size: int
    inspection: dict[str, Any]
    recipe: dict[str, Any]
    created_at: datetime


class EventRecord(Record):
    id: int
    job_id: str
    node_id: int | None
    kind: str
    data: dict[str, Any]
    at: datetime


@dataclass(frozen=True)
class NewNode:
    """A pair to be queued: model names, their hashes when it was validated, and the resolved plan."""

    a_model: str
    b_model: str
    a_sha256: str
    b_sha256: str
    output: str
    plan: dict[str, Any]


@dataclass(frozen=True)
class NewRender:
    """A stored image (by hash) and each scorer's raw number for it."""

    probe: int
    sha256: str
    seconds: float
    scores: dict[str, float]


@dataclass(frozen=True)
class NewCheckpoint:
    """A merged file that was written, inspected and hashed."""

    name: str
    path: Path
    sha256: str
    size: int
    inspection: dict[str, Any]
    recipe: dict[str, Any]


@dataclass(frozen=True)
class Lease:
    """The right to write to a node, until a later lease of it is given out."""

    node_id: int
    job_id: str
    number: int
