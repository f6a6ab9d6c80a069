"""Sessions, and the one way in which a state changes: checked, recorded as an event, in one transaction."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.db.engine import open_engine, reading
from service.db.migrate import upgrade
from service.db.models import Event, Job, Node, Trial
from service.db.records import Lease
from service.db.states import (
    JOB_AT_REST,
    JOB_MOVES,
    NODE_FINAL,
    NODE_MOVES,
    TRIAL_MOVES,
    NodeState,
    TrialState,
    check_move,
    job_state_of,
)
from service.errors import LeaseLost, NotFound, Stale

WRITES, SEEN = "writes", "seen"


class Database:
    """A database of this version's schema; opening one upgrades it.

    Raises InputError on a bad URL, on a database that cannot be opened and on one that a newer autombw
    wrote.
    """

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url)
        upgrade(self.engine)
        self._reading_engine = reading(self.engine)
        self._seen: int | None = None

    def close(self) -> None:
        """Give every connection back."""
        self.engine.dispose()

    def having_seen(self, event_id: int) -> Self:
        """The same database, for writes to a job whose newest event must still be this one, else Stale."""
        other = copy.copy(self)
        other._seen = event_id
        return other

    @contextmanager
    def _write(self) -> Iterator[Session]:
        options = {WRITES: True, SEEN: self._seen}
        with Session(self.engine, expire_on_commit=False, info=options) as session, session.begin():
            yield session

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with Session(self._reading_engine, expire_on_commit=False) as session, session.begin():
            yield session


def record(
    session: Session, job_id: str, kind: str, data: dict[str, Any], node_id: int | None = None
) -> None:
    """Add an event row to this transaction."""
    session.add(Event(job_id=job_id, node_id=node_id, kind=kind, data=data, at=time.time()))


def move_node(session: Session, node: Node, state: NodeState, reason: str | None = None) -> None:
    """Move a node, with its events, and its job with it. Raises Conflict on an illegal move."""
    check_move(NODE_MOVES, f"node {node.name} of job {node.job_id}", node.state, state)
    old, node.state, node.reason = node.state, state, reason
    if state is not NodeState.RUNNING:
        node.lease_owner = node.heartbeat_at = None
    node.ended_at = time.time() if state in NODE_FINAL else None
    data = {"node": node.name, "position": node.position, "from": old, "to": state, "reason": reason}
    record(session, node.job_id, "node.state", data, node.id)
    _follow(session, node.job)


def move_trial(trial: Trial, state: TrialState) -> None:
    """Move a trial. Raises Conflict on an illegal move."""
    check_move(TRIAL_MOVES, f"trial {trial.number} ({trial.kind})", trial.state, state)
    trial.state, trial.ended_at = state, None if state is TrialState.WAITING else time.time()


def job_of(session: Session, job_id: str) -> Job:
    """The job, or NotFound. A transaction that writes has it locked from here to its end.

    Every write to anything of a job begins with this lock (on SQLite, with the lock of the database). So
    what was read of the job's nodes stays true until the commit, and the job's events get their numbers in
    the order of their commits: a reader who goes on after the last event it saw misses none.
    """
    job = session.get(Job, job_id, with_for_update=session.info.get(WRITES, False))
    if job is None:
        raise _no_job(job_id)
    seen = session.info.get(SEEN)
    if seen is not None and seen != newest_event(session, job_id):
        raise Stale(f"job {job_id} has changed since it was read; GET it again, then decide anew")
    return job


def check_job(session: Session, job_id: str) -> None:
    """Raise NotFound where there is no such job. Its row is not read: what was asked for is long."""
    if session.scalar(select(Job.id).where(Job.id == job_id)) is None:
        raise _no_job(job_id)


def _no_job(job_id: str) -> NotFound:
    return NotFound(f"there is no job {job_id!r}; GET /api/v1/jobs or `autombw status` lists them")


def newest_event(session: Session, job_id: str) -> int:
    """The number of the job's newest event."""
    return session.scalar(select(func.max(Event.id)).where(Event.job_id == job_id)) or 0


def leased_node(session: Session, lease: Lease) -> Node:
    """The node, its job locked. Raises LeaseLost unless `lease` is still its lease."""
    job_of(session, lease.job_id)
    node = session.get_one(Node, lease.node_id)
    check_holds(node, lease)
    return node


def check_holds(node: Node, lease: Lease) -> None:
    """Raise LeaseLost unless `lease` is the node's lease now."""
    if node.lease != lease.number or node.state is not NodeState.RUNNING:
        raise LeaseLost(
            f"lease {lease.number} of node {node.id} ended: it is {node.state}, lease {node.lease}"
        )


def _follow(session: Session, job: Job) -> None:
    state = job_state_of(node.state for node in job.nodes)
    if state is job.state:
        return
    check_move(JOB_MOVES, f"job {job.id}", job.state, state)
    record(session, job.id, "job.state", {"from": job.state, "to": state})
    job.state, job.ended_at = state, time.time() if state in JOB_AT_REST else None
