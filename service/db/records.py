"""What the store hands out: plain, immutable records, detached from any session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from optimizer.racing import Estimate
from service.db.states import (
    JobState,
    NodeKind,
    NodeState,
    RenderState,
    TrialKind,
    TrialState,
    VoteOutcome,
)


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


class NodeHead(Record):
    """Which node it is and where it stands in the bracket's table. Its plan is long, and not read for it."""

    id: int
    job_id: str
    position: int
    name: str
    kind: NodeKind
    a_input: str | None
    b_input: str | None


class NodeRecord(NodeHead):
    level: int
    state: NodeState
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
    votes_needed: int | None
    started_at: datetime | None
    ended_at: datetime | None


class TrialRecord(Record):
    id: int
    node_id: int
    kind: TrialKind
    number: int
    state: TrialState
    weights: dict[str, float]
    choices: dict[str, str] | None
    slopes: dict[str, float] | None
    score: float | None
    may_win: bool
    estimate: float | None
    standard_error: float | None
    probes_seen: int | None
    probe_noise: float | None
    reason: str | None
    seconds: float | None
    timings: dict[str, float] | None
    means: dict[str, float] | None
    warnings: list[str] | None
    created_at: datetime
    ended_at: datetime | None


class EndedTrial(Record):
    """A search trial that ended, as the search needs it: with a score, an estimate, or neither."""

    number: int
    weights: dict[str, float]
    choices: dict[str, str] | None
    slopes: dict[str, float] | None
    score: float | None
    estimate: float | None
    standard_error: float | None
    probes_seen: int | None
    probe_noise: float | None
    seconds: float | None

    @property
    def expected(self) -> Estimate | None:
        """What one that racing or its draft stopped would have scored."""
        if self.estimate is None or self.standard_error is None or self.probes_seen is None:
            return None
        return Estimate(self.estimate, self.standard_error, self.probes_seen, self.probe_noise)


class RenderRecord(Record):
    probe: int
    sha256: str
    seconds: float
    state: RenderState
    scores: dict[str, float]
    slopes: dict[str, float] | None = None


class VoteRecord(Record):
    id: int
    node_id: int
    key: str
    left_trial_id: int
    right_trial_id: int
    probe: int
    outcome: VoteOutcome
    voter: str
    counted: int | None
    at: datetime


class NodeRender(RenderRecord):
    """A render with the trial that it belongs to."""

    id: int
    trial: int
    kind: TrialKind
    number: int


class WorkerTask(Record):
    """What a worker is at: images of the trial that are stored by now."""

    job: str
    job_name: str
    node: str
    trial: int | None
    kind: TrialKind | None
    renders: int


class WorkerRecord(Record):
    owner: str
    host: str
    pid: int
    device: str
    device_name: str
    memory_used: int | None
    memory_total: int | None
    started_at: datetime
    heartbeat_at: datetime
    task: WorkerTask | None


class GalleryRender(Record):
    """A render with all that a contact sheet says of it."""

    id: int
    sha256: str
    probe: int
    state: RenderState
    trial_id: int
    trial: int
    kind: TrialKind
    trial_state: TrialState
    score: float | None
    node: str
    job: str
    job_name: str


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


@dataclass(frozen=True)
class Maker:
    """The node that wrote a checkpoint, and the checkpoint's recipe as it stands in its metadata."""

    job_id: str
    job_name: str
    node: str
    recipe: dict[str, Any]


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
    """A job to be queued. leaves: name -> sha256 of every leaf, in order, None for one that a node makes;
    submitted_by: id of a token, which may have `limit` jobs that are not over (0: as many as it likes)."""

    name: str
    request: dict[str, Any]
    leaves: dict[str, str | None]
    nodes: Sequence[NewNode]
    priority: int = 0
    submitted_by: str | None = None
    limit: int = 0


@dataclass(frozen=True)
class NewRender:
    """A stored image (by hash), each scorer's raw number for it, and its share of its batch's slopes."""

    probe: int
    sha256: str
    seconds: float
    scores: dict[str, float]
    slopes: dict[str, float] | None = None


@dataclass(frozen=True)
class Looks:
    """What is told of a trial beside its score. means: scorer -> raw number in the mean over the probes;
    warnings: of the watch, in words; may_win: False for what is only to be beaten;
    slopes: d score / d weight by block, where they were computed."""

    means: Mapping[str, float] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    may_win: bool = True
    slopes: Mapping[str, float] | None = None


@dataclass(frozen=True)
class NewVote:
    """What somebody said of two images of a probe. key: names the comparison that was shown."""

    key: str
    left_trial_id: int
    right_trial_id: int
    probe: int
    outcome: VoteOutcome
    voter: str


@dataclass(frozen=True)
class WorkerSign:
    """A sign of life of a worker. memory: bytes of its device; started_at: seconds since 1970."""

    owner: str
    host: str
    pid: int
    device: str
    device_name: str
    memory_used: int | None
    memory_total: int | None
    started_at: float


@dataclass(frozen=True)
class Judgement:
    """What counted votes make of a trial. numbers: scorer of people -> its number of every image."""

    score: float
    numbers: Mapping[str, float]
    looks: Looks


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
