"""Jobs in the store: queued, listed, cancelled, retried; their events."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.db.database import Database, job_of, move_node, move_trial, record
from service.db.models import Checkpoint, Event, Job, Node, Trial
from service.db.records import CheckpointRecord, EventRecord, JobRecord, NewNode, NodeRecord
from service.db.states import (
    JOB_FINAL,
    NODE_FINAL,
    NODE_RETRIABLE,
    JobState,
    NodeState,
    TrialState,
)
from service.errors import Conflict


class JobStore(Database):
    """The storage contract of jobs."""

    def create_job(self, name: str, request: dict[str, Any], nodes: Sequence[NewNode]) -> JobRecord:
        """Queue a job of `nodes`. Raises Conflict when a job that still counts writes the same output."""
        with self._write() as session:
            for node in nodes:
                _check_output_is_free(session, node.output)
            job = Job(id=secrets.token_hex(6), name=name, state=JobState.QUEUED, request=request)
            session.add(job)
            session.flush()
            session.add_all(
                Node(
                    job_id=job.id,
                    position=position,
                    state=NodeState.READY,
                    a_model=node.a_model,
                    b_model=node.b_model,
                    a_sha256=node.a_sha256,
                    b_sha256=node.b_sha256,
                    output=node.output,
                    plan=node.plan,
                )
                for position, node in enumerate(nodes)
            )
            record(session, job.id, "job.created", {"name": name, "nodes": len(nodes)})
            return JobRecord.model_validate(job)

    def job(self, job_id: str) -> JobRecord:
        """One job. Raises NotFound."""
        with self._read() as session:
            return JobRecord.model_validate(job_of(session, job_id))

    def jobs(self, *, limit: int = 100, offset: int = 0) -> list[JobRecord]:
        """Jobs, newest first."""
        newest = select(Job).order_by(Job.created_at.desc(), Job.id).limit(limit).offset(offset)
        with self._read() as session:
            return [JobRecord.model_validate(job) for job in session.scalars(newest)]

    def unfinished_job(self, request: dict[str, Any]) -> JobRecord | None:
        """The newest job of exactly this request that is not done or cancelled; None where there is none."""
        with self._read() as session:
            unfinished = select(Job).where(Job.state.not_in(JOB_FINAL)).order_by(Job.created_at.desc())
            found = next((job for job in session.scalars(unfinished) if job.request == request), None)
            return None if found is None else JobRecord.model_validate(found)

    def nodes(self, job_id: str) -> list[NodeRecord]:
        """The nodes of a job in their order. Raises NotFound."""
        with self._read() as session:
            return [NodeRecord.model_validate(node) for node in job_of(session, job_id).nodes]

    def node(self, node_id: int) -> NodeRecord:
        """One node, which must exist."""
        with self._read() as session:
            return NodeRecord.model_validate(session.get_one(Node, node_id))

    def cancel_job(self, job_id: str) -> JobRecord:
        """End a job: its worker's next write is refused. Raises NotFound, and Conflict when it is over."""
        with self._write() as session:
            job = job_of(session, job_id)
            if job.state in JOB_FINAL:
                raise Conflict(f"job {job_id} is {job.state.value}: there is nothing left to cancel")
            for node in job.nodes:
                if node.state not in NODE_FINAL:
                    _cancel_node(session, node)
            return JobRecord.model_validate(job)

    def retry_job(self, job_id: str) -> JobRecord:
        """Queue what failed or was paused again; what is stored stays. Raises NotFound, and Conflict
        when nothing of it waits for that."""
        with self._write() as session:
            job = job_of(session, job_id)
            stopped = [node for node in job.nodes if node.state in NODE_RETRIABLE]
            if not stopped:
                raise Conflict(f"job {job_id} is {job.state.value}: nothing of it failed, nothing to retry")
            for node in stopped:
                node.failed_in_row = 0
                move_node(session, node, NodeState.READY)
            return JobRecord.model_validate(job)

    def checkpoint(self, node_id: int) -> CheckpointRecord | None:
        """The output of a node; None until it is written."""
        with self._read() as session:
            found = session.scalars(select(Checkpoint).where(Checkpoint.node_id == node_id)).one_or_none()
            return None if found is None else CheckpointRecord.model_validate(found)

    def events(self, job_id: str, *, after: int = 0, limit: int = 500) -> list[EventRecord]:
        """Events of a job in order, from the one after `after`. Raises NotFound."""
        with self._read() as session:
            job_of(session, job_id)
            wanted = select(Event).where(Event.job_id == job_id, Event.id > after).order_by(Event.id)
            return [EventRecord.model_validate(row) for row in session.scalars(wanted.limit(limit))]

    def last_event_id(self, job_id: str) -> int:
        """The number of the job's newest event."""
        with self._read() as session:
            return session.scalar(select(func.max(Event.id)).where(Event.job_id == job_id)) or 0


def _check_output_is_free(session: Session, output: str) -> None:
    taken = select(Job.id).join(Node).where(Node.output == output, Node.state != NodeState.CANCELLED)
    job_id = session.scalar(taken.limit(1))
    if job_id is not None:
        raise Conflict(
            f"output {output!r} belongs to job {job_id}; give another output name or cancel that job"
        )


def _cancel_node(session: Session, node: Node) -> None:
    open_trials = select(Trial).where(Trial.node_id == node.id, Trial.state == TrialState.OPEN)
    for trial in session.scalars(open_trials):
        move_trial(trial, TrialState.CANCELLED)
    move_node(session, node, NodeState.CANCELLED)
