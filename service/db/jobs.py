"""Jobs in the store: queued, listed, paused, cancelled, extended; their nodes and their events."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.db.database import (
    Database,
    check_job,
    job_of,
    leased_node,
    move_node,
    move_trial,
    newest_event,
    record,
)
from service.db.engine import Turn, take_turn
from service.db.models import Checkpoint, Event, Job, Node, Trial
from service.db.records import (
    CheckpointRecord,
    EventRecord,
    JobRecord,
    Lease,
    Maker,
    NewJob,
    NewNode,
    NodeHead,
    NodeRecord,
)
from service.db.rows import columns, records
from service.db.states import (
    JOB_FINAL,
    NODE_FINAL,
    NODE_GOING,
    NODE_RETRIABLE,
    JobState,
    NodeKind,
    NodeState,
    TrialKind,
    TrialState,
)
from service.db.tree import SCORED_ALONE, can_begin, is_measured, mentions, settle
from service.errors import Conflict, NotFound, TooMany

NOTICE = "node.notice"


class JobStore(Database):
    """The storage contract of jobs."""

    def create_job(self, new: NewJob) -> JobRecord:
        """Queue a job with its nodes; those that need nothing made first are ready at once.

        Raises Conflict when a job that still counts writes one of the outputs, and TooMany when its
        submitter has as many jobs as it may.
        """
        with self._write() as session:
            for node in new.nodes:
                _check_output_is_free(session, node.output)
            _check_queue(session, new)
            job = Job(
                id=secrets.token_hex(6),
                name=new.name,
                state=JobState.QUEUED,
                priority=new.priority,
                request=new.request,
                leaves=new.leaves,
                submitted_by=new.submitted_by,
            )
            session.add(job)
            session.flush()
            job.nodes.extend(_node(job, position, node) for position, node in enumerate(new.nodes))
            session.flush()
            record(session, job.id, "job.created", {"name": new.name, "nodes": len(new.nodes)})
            settle(session, job)
            return JobRecord.model_validate(job)

    def job(self, job_id: str) -> JobRecord:
        """One job. Raises NotFound."""
        with self._read() as session:
            return JobRecord.model_validate(job_of(session, job_id))

    def jobs(self, *, limit: int = 100, offset: int = 0, after: str | None = None) -> list[JobRecord]:
        """Jobs, newest first, from the one that follows job `after`. Raises NotFound for an unknown one."""
        newest = select(Job).order_by(Job.created_at.desc(), Job.id).limit(limit).offset(offset)
        with self._read() as session:
            if after is not None:
                last = job_of(session, after)
                same = (Job.created_at == last.created_at) & (Job.id > last.id)
                newest = newest.where((Job.created_at < last.created_at) | same)
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

    def node_heads(self, job_id: str) -> list[NodeHead]:
        """Which nodes a job has, in their order. Raises NotFound."""
        wanted = select(*columns(NodeHead, Node)).where(Node.job_id == job_id).order_by(Node.position)
        with self._read() as session:
            found = records(NodeHead, session.execute(wanted))
            if not found:  # every job has some
                check_job(session, job_id)
            return found

    def node(self, node_id: int) -> NodeRecord:
        """One node, which must exist."""
        with self._read() as session:
            return NodeRecord.model_validate(session.get_one(Node, node_id))

    def cancel_job(self, job_id: str) -> JobRecord:
        """End a job: its workers' next writes are refused. Raises NotFound, and Conflict when it is over."""
        with self._write() as session:
            job = job_of(session, job_id)
            if job.state in JOB_FINAL:
                raise Conflict(f"job {job_id} is {job.state.value}: there is nothing left to cancel")
            for node in job.nodes:
                if node.state not in NODE_FINAL:
                    _cancel_node(session, node)
            return JobRecord.model_validate(job)

    def pause_job(self, job_id: str) -> JobRecord:
        """Stop working on a job until it is resumed; renders in progress are dropped, all else is kept.

        Raises NotFound, and Conflict when nothing of it runs or waits to run.
        """
        with self._write() as session:
            job = job_of(session, job_id)
            going = [node for node in job.nodes if node.state in NODE_GOING]
            if not going or job.state is JobState.PAUSED:
                raise Conflict(f"job {job_id} is {job.state.value}: there is nothing to pause")
            for node in going:
                move_node(session, node, NodeState.PAUSED, "paused by hand")
            return JobRecord.model_validate(job)

    def resume_job(self, job_id: str) -> JobRecord:
        """Go on with what is paused. Raises NotFound, and Conflict when nothing is."""
        with self._write() as session:
            job = job_of(session, job_id)
            paused = [node for node in job.nodes if node.state is NodeState.PAUSED]
            if not paused:
                raise Conflict(f"job {job_id} is {job.state.value}: nothing of it is paused")
            for node in paused:
                _queue_again(session, node)
            return JobRecord.model_validate(job)

    def retry_job(self, job_id: str, *, node: str | None = None) -> JobRecord:
        """Queue what failed or was paused again, or one such node; what is stored stays.

        Raises NotFound (also for an unknown node), and Conflict when nothing of it waits for that.
        """
        with self._write() as session:
            job = job_of(session, job_id)
            asked = job.nodes if node is None else [node_named(job, node)]
            stopped = [each for each in asked if each.state in NODE_RETRIABLE]
            if not stopped:
                what = f"job {job_id} is {job.state.value}" if node is None else f"node {node} did not fail"
                raise Conflict(f"{what}: nothing of it failed, nothing to retry")
            for each in stopped:
                _queue_again(session, each)
            return JobRecord.model_validate(job)

    def extend_node(self, job_id: str, node: str, trials: int) -> JobRecord:
        """Let a finished merge search for `trials` more; its file is made anew when they are done.

        Nodes that wait for its output wait again. Raises NotFound, and Conflict when the node is not a
        finished merge, the job was cancelled, or a node that takes its output has begun.
        """
        with self._write() as session:
            job = job_of(session, job_id)
            extended = node_named(job, node)
            if job.state is JobState.CANCELLED:
                raise Conflict(f"job {job_id} was cancelled and can't be extended; clone it instead")
            if extended.kind is not NodeKind.MERGE or extended.state is not NodeState.DONE:
                what = f"node {node} is {extended.state.value}"
                raise Conflict(f"{what}: only a finished merge can be extended; wait until it is done")
            begun = [each.name for each in job.nodes if each.started_at and mentions(each, node)]
            if begun:
                raise Conflict(
                    f"node {node} can't be extended: {', '.join(begun)} began with its output; extend that "
                    "one, or clone the job with more trials"
                )
            _extend(session, extended, trials)
            settle(session, job)
            return JobRecord.model_validate(job)

    def add_leaves(
        self,
        job_id: str,
        leaves: dict[str, str | None],
        layout: Callable[[Sequence[NodeRecord]], Sequence[NewNode]],
        request: dict[str, Any],
    ) -> JobRecord:
        """Add leaves (name -> sha256, None for one that a node makes) to a job that is not over.

        layout: from the job's nodes, all nodes of the longer bracket; those that have begun must be among
        them. It is called inside the transaction, so that none begins in between. request: what the job is
        asked for from now on. Raises NotFound, Conflict when the job is over or an output is taken, and
        whatever `layout` raises.
        """
        with self._write() as session:
            job = job_of(session, job_id)
            if job.state in JOB_FINAL:
                raise Conflict(f"job {job_id} is {job.state.value}: clone it with the longer list of leaves")
            wanted = layout([NodeRecord.model_validate(node) for node in job.nodes])
            job.leaves, job.request = {**job.leaves, **leaves}, request
            _lay(session, job, wanted)
            record(session, job.id, "job.leaves_added", {"leaves": list(leaves), "nodes": len(job.nodes)})
            settle(session, job)
            return JobRecord.model_validate(job)

    def set_priority(self, job_id: str, priority: int) -> JobRecord:
        """Change which job comes first: the highest. Raises NotFound."""
        with self._write() as session:
            job = job_of(session, job_id)
            record(session, job.id, "job.priority", {"from": job.priority, "to": priority})
            job.priority = priority
            return JobRecord.model_validate(job)

    def check_outputs(self, outputs: Sequence[str]) -> None:
        """Raise Conflict where a job that still counts writes one of these outputs."""
        with self._read() as session:
            for output in outputs:
                _check_nobody_writes(session, output)

    def output_is_taken(self, output: str) -> bool:
        """Whether a job that still counts writes this output."""
        with self._read() as session:
            return _owner_of(session, output) is not None

    def note(self, lease: Lease, text: str) -> None:
        """Record something that people should know of a node's run. Raises LeaseLost."""
        with self._write() as session:
            node = leased_node(session, lease)
            record(session, node.job_id, NOTICE, {"node": node.name, "text": text}, node.id)

    def notices(self, node_id: int) -> list[str]:
        """What was recorded by `note` of a node's runs, each text once, oldest first."""
        said = select(Event).where(Event.node_id == node_id, Event.kind == NOTICE).order_by(Event.id)
        with self._read() as session:
            return list(dict.fromkeys(str(event.data["text"]) for event in session.scalars(said)))

    def checkpoint(self, node_id: int) -> CheckpointRecord | None:
        """The output of a node; None until it is written."""
        with self._read() as session:
            found = session.scalars(select(Checkpoint).where(Checkpoint.node_id == node_id)).one_or_none()
            return None if found is None else CheckpointRecord.model_validate(found)

    def makers(self, digests: Collection[str]) -> dict[str, Maker]:
        """sha256 -> the node that wrote a checkpoint of it, the newest of several; others are missing."""
        wanted = (
            select(Checkpoint.sha256, Checkpoint.recipe, Node.name, Job.id, Job.name)
            .join(Node, Node.id == Checkpoint.node_id)
            .join(Job, Job.id == Node.job_id)
            .where(Checkpoint.sha256.in_(digests))
            .order_by(Checkpoint.id)
        )
        with self._read() as session:
            return {
                sha256: Maker(job_id, job, node, recipe)
                for sha256, recipe, node, job_id, job in session.execute(wanted)
            }

    def events(self, job_id: str, *, after: int = 0, limit: int = 500) -> list[EventRecord]:
        """Events of a job in order, from the one after `after`. Raises NotFound."""
        of_job = select(*columns(EventRecord, Event)).where(Event.job_id == job_id, Event.id > after)
        with self._read() as session:
            check_job(session, job_id)
            return records(EventRecord, session.execute(of_job.order_by(Event.id).limit(limit)))

    def last_event_id(self, job_id: str) -> int:
        """The number of the job's newest event. Raises NotFound."""
        with self._read() as session:
            check_job(session, job_id)
            return newest_event(session, job_id)


def node_named(job: Job, name: str) -> Node:
    """The node of a job by its name. Raises NotFound."""
    found = next((node for node in job.nodes if node.name == name), None)
    if found is None:
        names = ", ".join(node.name for node in job.nodes)
        raise NotFound(f"job {job.id} has no node {name!r}; its nodes are {names}")
    return found


def _node(job: Job, position: int, new: NewNode) -> Node:
    alone = new.a_input if new.kind in SCORED_ALONE else None
    return Node(
        job_id=job.id,
        position=position,
        name=new.name,
        kind=new.kind,
        level=new.level,
        state=NodeState.WAITING,
        a_input=new.a_input,
        b_input=new.b_input,
        a_model=alone,
        a_sha256=job.leaves[alone] if alone else None,
        output=new.output,
        plan=new.plan,
    )


def _check_output_is_free(session: Session, output: str) -> None:
    # Two jobs that are queued at once must not both find it free.
    take_turn(session.connection(), Turn.TAKE_OUTPUT)
    _check_nobody_writes(session, output)


def _check_nobody_writes(session: Session, output: str) -> None:
    job_id = _owner_of(session, output)
    if job_id is not None:
        raise Conflict(
            f"output {output!r} belongs to job {job_id}; give another output name or cancel that job"
        )


def _check_queue(session: Session, new: NewJob) -> None:
    if not new.limit or new.submitted_by is None:
        return
    mine = select(func.count()).where(Job.submitted_by == new.submitted_by, Job.state.not_in(JOB_FINAL))
    if session.execute(mine).scalar_one() >= new.limit:
        raise TooMany(
            f"this token has {new.limit} jobs that are not over, as many as it may; wait for one to end or "
            "cancel one"
        )


def _owner_of(session: Session, output: str) -> str | None:
    """The job that writes an output and was not cancelled."""
    taken = select(Job.id).join(Node).where(Node.output == output, Node.state != NodeState.CANCELLED)
    return session.scalar(taken.limit(1))


def _cancel_node(session: Session, node: Node) -> None:
    unended = (TrialState.OPEN, TrialState.WAITING)
    for trial in session.scalars(select(Trial).where(Trial.node_id == node.id, Trial.state.in_(unended))):
        move_trial(trial, TrialState.CANCELLED)
    move_node(session, node, NodeState.CANCELLED)


def _queue_again(session: Session, node: Node) -> None:
    node.failed_in_row = 0
    move_node(session, node, NodeState.WAITING if _waits(node) else NodeState.READY)


def _waits(node: Node) -> bool:
    if node.kind is NodeKind.MERGE:
        return node.a_sha256 is None or node.b_sha256 is None or not is_measured(node.job)
    return not can_begin(node.job, node)


def _extend(session: Session, node: Node, trials: int) -> None:
    ended = select(func.count()).where(
        Trial.node_id == node.id, Trial.kind == TrialKind.SEARCH, Trial.state != TrialState.OPEN
    )
    total = (session.scalar(ended) or 0) + trials
    # The limits that ended the search once would end it again before the first new trial.
    search = {**node.plan["search"], "trials": total}
    search |= dict.fromkeys(("seconds", "patience", "until_gain_per_hour"))
    node.plan = {**node.plan, "search": search}
    node.stop_reason = node.score = node.output_sha256 = None
    data = {"node": node.name, "position": node.position, "trials": total}
    record(session, node.job_id, "node.extended", data, node.id)
    move_node(session, node, NodeState.READY)


def _lay(session: Session, job: Job, wanted: Sequence[NewNode]) -> None:
    """Make the job's nodes those that are wanted: by name, then in the place of what is no longer wanted."""
    named = {new.name: new for new in wanted}
    given_up = [node for node in job.nodes if node.name not in named]
    begun = [node.name for node in given_up if node.started_at]
    if begun:
        raise Conflict(f"{', '.join(begun)} of job {job.id} began and has no place in the longer bracket")
    present = {node.name: node for node in job.nodes if node.name in named}
    for new in wanted:
        node = present.get(new.name) or (given_up.pop(0) if given_up else None)
        if node is None:
            _check_output_is_free(session, new.output)
            job.nodes.append(_node(job, len(job.nodes), new))
        elif not node.started_at:
            node.name, node.kind, node.level = new.name, new.kind, new.level
            node.a_input, node.b_input = new.a_input, new.b_input
            node.output, node.plan = new.output, new.plan
            if new.kind is NodeKind.COMPOSE:
                node.a_model = node.a_node_id = node.a_sha256 = None
                node.b_model = node.b_node_id = node.b_sha256 = None
            # One row may take the name that another gives up.
            session.flush()
    session.flush()
