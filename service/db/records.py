"""What the store hands out: plain, immutable records, detached from any session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from service.db.states import JobState, NodeKind, NodeState, RenderState, TrialKind, TrialState


class Record(BaseModel):
    model_config = ConfigDict(from_attributes=True, frozen=True)


class JobRecord(Record):
    id: str
    name: str
    state: JobState
    priority: int
    request: dict[str, Any]
    leaves: dict[str, str | None]
    created_at: datetime
    ended_at: datetime | None


class NodeRecord(Record):
    id: int
    job_id: str
    position: int
    name: str
    kind: NodeKind
    level: int
    state: NodeState
    a_input: str | None
    b_input: str | None
    a_model: str | None
    b_model: str | None
    a_node_id: int | None
    b_node_id: int | None
    a_sha256: str | None
    b_sha256: str | None
    output: str
    output_sha256: str | None
    score: float | None
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
    means: dict[str, float] | None
    warnings: list[str] | None
    created_at: datetime
    ended_at: datetime | None


class RenderRecord(Record):
    probe: int
    sha256: str
    seconds: float
    state: RenderState
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
    collected_at: datetime | None


class EventRecord(Record):
    id: int
    job_id: str
    node_id: int | None
    kind: str
    data: dict[str, Any]
    at: datetime


@dataclass(frozen=True)
class NewNode:
    """A node to be queued: its place in the bracket's table, the file it makes, and its resolved plan.

    a_input, b_input: as in the table, leaf or node or `best(…)` or `#1`; none for an average or a leaf that
    is put together, and only `a_input` for a screening. `output` is the name of the file, or of the
    screening.
    """

    name: str
    kind: NodeKind
    level: int
    a_input: str | None
    b_input: str | None
    output: str
    plan: dict[str, Any]


@dataclass(frozen=True)
class NewJob:
    """A job to be queued. leaves: name -> sha256 of every leaf, in order; None for one that a node makes."""

    name: str
    request: dict[str, Any]
    leaves: dict[str, str | None]
    nodes: Sequence[NewNode]
    priority: int = 0


@dataclass(frozen=True)
class NewRender:
    """A stored image (by hash) and each scorer's raw number for it."""

    probe: int
    sha256: str
    seconds: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Looks:
    """What is told of a trial beside its score. means: scorer -> raw number in the mean over the probes;
    warnings: of the watch, in words."""

    means: Mapping[str, float] = field(default_factory=dict)
    warnings: Sequence[str] = ()


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
