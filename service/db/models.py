"""The tables: jobs, nodes, trials, renders, scores, checkpoints, events.

Portable to PostgreSQL: no SQLite-only types; enums are short strings; times are seconds since 1970
(UTC) as floats, so that a lease is compared with the same number on both.
"""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Enum,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from service.db.states import (
    JobState,
    NodeKind,
    NodeState,
    RenderState,
    TrialKind,
    TrialState,
    VoteOutcome,
)

# SQLite gives rowids only to INTEGER primary keys.
BigId = BigInteger().with_variant(Integer, "sqlite")


def state_column(states: type[StrEnum]) -> Enum:
    """An enum kept as its value in a short string, without a database type or check to migrate."""
    return Enum(
        states,
        native_enum=False,
        create_constraint=False,
        length=20,
        values_callable=lambda kind: [member.value for member in kind],
    )


def _where_there(name: str, column: str, *indexed: str) -> Index:
    """An index over those rows alone that have something in a column."""
    there = text(f"{column} IS NOT NULL")
    return Index(name, *indexed, sqlite_where=there, postgresql_where=there)


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can drop them on any database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        dict[str, Any]: JSON,
        # NULL where there is none, so that SQL can count them.
        list[str]: JSON(none_as_null=True),
        float: Float(53),
    }


class Job(Base):
    """What a person asked for: a tree of nodes (one node for a pair).

    `leaves` maps the name of every leaf to the sha256 it had when the job was checked; to null until it is
    made, where a node puts it together. `submitted_by` is the id of a token; none where no token was asked
    for.
    """

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    state: Mapped[JobState] = mapped_column(state_column(JobState), default=JobState.QUEUED, index=True)
    priority: Mapped[int] = mapped_column(default=0)
    request: Mapped[dict[str, Any]]
    leaves: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[float] = mapped_column(default=time.time)
    ended_at: Mapped[float | None]
    submitted_by: Mapped[str | None] = mapped_column(String(12), index=True)
    nodes: Mapped[list[Node]] = relationship(back_populates="job", order_by="Node.position")


class Node(Base):
    """One piece of work of a job: a merge A + B -> O, or checkpoints scored without a search (see NodeKind).

    `a_input` and `b_input` are what the bracket's table says: a leaf, another node, `best(…)` of several, or
    a place in the ranking of the leaves (`#1`). Once decided, an input is a leaf (`a_model`: its name) or the
    output of another merge (`a_node_id`), with its sha256; a leaf that a node puts together has both. `lease`
    counts the times the node was leased: the number is the fence of every write. `plan` is all that a worker
    needs (probes, held-out probes, scorers, tally, search), resolved when it was queued. `score` is what the
    finished node is worth: on held-out probes where it has any. `output_sha256` is that of the file which is
    about to appear, written before it does. `votes_needed` is how many votes, not counted yet, it waits for
    while it is VOTING.
    """

    __tablename__ = "nodes"
    __table_args__ = (UniqueConstraint("job_id", "position"), UniqueConstraint("job_id", "name"))

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    position: Mapped[int]
    name: Mapped[str] = mapped_column(String(120))
    kind: Mapped[NodeKind] = mapped_column(state_column(NodeKind), default=NodeKind.MERGE)
    level: Mapped[int] = mapped_column(default=1)
    state: Mapped[NodeState] = mapped_column(state_column(NodeState), default=NodeState.READY, index=True)
    a_input: Mapped[str | None]
    b_input: Mapped[str | None]
    a_model: Mapped[str | None] = mapped_column(String(300))
    b_model: Mapped[str | None] = mapped_column(String(300))
    a_node_id: Mapped[int | None] = mapped_column(ForeignKey("nodes.id"))
    b_node_id: Mapped[int | None] = mapped_column(ForeignKey("nodes.id"))
    a_sha256: Mapped[str | None] = mapped_column(String(64))
    b_sha256: Mapped[str | None] = mapped_column(String(64))
    output: Mapped[str] = mapped_column(String(300), index=True)
    output_sha256: Mapped[str | None] = mapped_column(String(64))
    score: Mapped[float | None]
    plan: Mapped[dict[str, Any]]
    reason: Mapped[str | None]
    stop_reason: Mapped[str | None]
    failed_in_row: Mapped[int] = mapped_column(default=0)
    lease: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(200))
    lease_seconds: Mapped[float] = mapped_column(default=0.0)
    heartbeat_at: Mapped[float | None]
    created_at: Mapped[float] = mapped_column(default=time.time)
    votes_needed: Mapped[int | None]
    started_at: Mapped[float | None]
    ended_at: Mapped[float | None]
    job: Mapped[Job] = relationship(back_populates="nodes")


class Trial(Base):
    """One set of block weights of a node with its score (the tally); no score unless it is done.

    `may_win` is false for what is only to be beaten: a baseline outside of the space that is searched. A
    stopped trial has instead of a score an `estimate` of it with its `standard_error`, from `probes_seen` of
    the node's probes (optimizer/racing.py). `slopes` are d score / d weight by block, where they were
    computed: the mean of the renders' shares (optimizer/slopes.py). `choices` are what it has that is no
    number, in a search that chooses (optimizer/choices.py). `means` are the raw numbers of every
    scorer in the mean over the probes, and `warnings` what the watch says (scoring/watch.py), as it ended;
    none are NULL. A score that people have a part in is written anew whenever votes are counted.
    """

    __tablename__ = "trials"
    __table_args__ = (
        UniqueConstraint("node_id", "kind", "number"),
        # The metrics count trials by state; the rows themselves are long.
        Index("ix_trials_state", "state"),
        # At every change of a node it is asked for its best trial, how many are in which state, which are
        # warned of, and whether one was scored anew.
        Index(None, "node_id", "kind", "state", "score", "estimate", "seconds"),
        _where_there("ix_trials_warned", "warnings", "node_id", "kind"),
        _where_there("ix_trials_noise", "probe_noise", "node_id", "number", "probe_noise"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id"))
    kind: Mapped[TrialKind] = mapped_column(state_column(TrialKind))
    number: Mapped[int]
    state: Mapped[TrialState] = mapped_column(state_column(TrialState), default=TrialState.OPEN)
    weights: Mapped[dict[str, Any]]
    choices: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    slopes: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    score: Mapped[float | None]
    may_win: Mapped[bool] = mapped_column(default=True)
    estimate: Mapped[float | None]
    standard_error: Mapped[float | None]
    probes_seen: Mapped[int | None]
    probe_noise: Mapped[float | None]
    reason: Mapped[str | None]
    seconds: Mapped[float | None]
    timings: Mapped[dict[str, Any] | None]
    means: Mapped[dict[str, Any] | None]
    warnings: Mapped[list[str] | None]
    created_at: Mapped[float] = mapped_column(default=time.time)
    ended_at: Mapped[float | None]


class Render(Base):
    """One probe rendered under one trial; the image lies under its sha256 until it is collected.

    `slopes` is its share of the slopes of the batch that it was rendered in.
    """

    __tablename__ = "renders"
    __table_args__ = (UniqueConstraint("trial_id", "probe"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id"))
    probe: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    seconds: Mapped[float]
    slopes: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    state: Mapped[RenderState] = mapped_column(state_column(RenderState), default=RenderState.STORED)
    created_at: Mapped[float] = mapped_column(default=time.time)


class Score(Base):
    """The raw number of one scorer for one render."""

    __tablename__ = "scores"

    render_id: Mapped[int] = mapped_column(ForeignKey("renders.id"), primary_key=True)
    scorer: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[float]


class Checkpoint(Base):
    """A merged checkpoint that was written, inspected and hashed: the output of its node.

    Once it is collected its file is gone; the recipe makes the same file again.
    """

    __tablename__ = "checkpoints"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    node_id: Mapped[int | None] = mapped_column(ForeignKey("nodes.id"), unique=True)
    name: Mapped[str] = mapped_column(String(300))
    path: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    inspection: Mapped[dict[str, Any]]
    recipe: Mapped[dict[str, Any]]
    created_at: Mapped[float] = mapped_column(default=time.time)
    collected_at: Mapped[float | None]


class Event(Base):
    """Something that changed, in order: what the event stream and the page read."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_node_id_kind", "node_id", "kind"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    node_id: Mapped[int | None] = mapped_column(ForeignKey("nodes.id"))
    kind: Mapped[str] = mapped_column(String(60))
    data: Mapped[dict[str, Any]]
    at: Mapped[float] = mapped_column(default=time.time)


class Vote(Base):
    """What a person said of two images of the same probe, under two trials of one node.

    `key` names the comparison that was shown: a second click on it is the same vote. `counted` is the number
    of the count that took it in (its trials' scores depend on it since), NULL until then; one that was
    `withdrawn` before never counts.
    """

    __tablename__ = "votes"
    __table_args__ = (
        UniqueConstraint("node_id", "key"),
        Index("ix_votes_node_id_counted", "node_id", "counted"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    node_id: Mapped[int] = mapped_column(ForeignKey("nodes.id"))
    key: Mapped[str] = mapped_column(String(64))
    left_trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id"))
    right_trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id"))
    probe: Mapped[int]
    outcome: Mapped[VoteOutcome] = mapped_column(state_column(VoteOutcome))
    voter: Mapped[str] = mapped_column(String(100))
    counted: Mapped[int | None]
    withdrawn: Mapped[bool] = mapped_column(default=False)
    at: Mapped[float] = mapped_column(default=time.time)


class WorkerRow(Base):
    """A worker process that lives: it writes its row every few seconds. What it works on says its lease."""

    __tablename__ = "workers"

    owner: Mapped[str] = mapped_column(String(200), primary_key=True)
    host: Mapped[str] = mapped_column(String(200))
    pid: Mapped[int]
    device: Mapped[str] = mapped_column(String(40))
    device_name: Mapped[str] = mapped_column(String(200))
    memory_used: Mapped[int | None] = mapped_column(BigInteger)
    memory_total: Mapped[int | None] = mapped_column(BigInteger)
    started_at: Mapped[float]
    heartbeat_at: Mapped[float] = mapped_column(index=True)
