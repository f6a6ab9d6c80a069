"""Leases in the store: who works on which node, and that nobody else can write to it.

A lease carries a number that grows with every lease of the node; each write checks it in its own
transaction. A worker that slept past its lease and woke up finds every write refused.
"""

from __future__ import annotations

import time

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from service.db.database import Database, check_holds, job_of, leased_node, move_node, record
from service.db.models import Checkpoint, Job, Node
from service.db.records import Lease, NewCheckpoint
from service.db.states import NodeState
from service.db.tree import settle


class LeaseStore(Database):
    """The storage contract of leases and of how a node ends."""

    def lease_node(self, owner: str, seconds: float, *, job_id: str | None = None) -> Lease | None:
        """Take the next runnable node: a ready one, or a running one whose worker fell silent.

        owner: a name for the worker; a running node that it holds itself (it dropped it when the database
        was away) is given to it again at once. seconds: silence after which the lease may be taken over.
        job_id: only nodes of this job. The highest priority comes first, then the oldest job, then the
        lowest position. Returns None when there is nothing to do.
        """
        # The distance, not the difference: after the clock was moved back, a heartbeat from the
        # future must not hold a dead worker's node for as long as the clock was moved.
        silence = func.abs(time.time() - Node.heartbeat_at)
        expired = (Node.state == NodeState.RUNNING) & or_(
            Node.heartbeat_at.is_(None), silence > Node.lease_seconds, Node.lease_owner == owner
        )
        runnable = or_(Node.state == NodeState.READY, expired)
        first = (
            select(Node.id, Node.job_id)
            .join(Job)
            .where(runnable)
            .order_by(Job.priority.desc(), Job.created_at, Node.position)
            .limit(1)
        )
        if job_id is not None:
            first = first.where(Node.job_id == job_id)
        while True:
            with self._write() as session:
                found = session.execute(first).one_or_none()
                if found is None:
                    return None
                job_of(session, found.job_id)
                node = session.scalars(select(Node).where(Node.id == found.id, runnable)).one_or_none()
                if node is not None:
                    return _take(session, node, owner, seconds)
                # Another worker took it while this one waited for the job's lock: look again.

    def heartbeat(self, lease: Lease) -> None:
        """Show that the worker lives. Raises LeaseLost."""
        with self._write() as session:
            leased_node(session, lease).heartbeat_at = time.time()

    def check_lease(self, lease: Lease) -> None:
        """Look, without writing, whether the lease still holds. Raises LeaseLost."""
        with self._read() as session:
            node = session.get_one(Node, lease.node_id)
            check_holds(node, lease)

    def owners(self) -> set[str]:
        """The names of all workers that hold a lease."""
        held = select(Node.lease_owner).where(Node.state == NodeState.RUNNING, Node.lease_owner.is_not(None))
        with self._read() as session:
            return {owner for owner in session.scalars(held) if owner}

    def release_owner(self, owner: str) -> int:
        """Hand back all nodes of a worker known to be dead; how many they were."""
        held = (Node.state == NodeState.RUNNING, Node.lease_owner == owner)
        with self._write() as session:
            jobs = session.scalars(select(Node.job_id).where(*held).distinct().order_by(Node.job_id)).all()
            for job_id in jobs:
                job_of(session, job_id)
            nodes = session.scalars(select(Node).where(*held, Node.job_id.in_(jobs))).all()
            for node in nodes:
                move_node(session, node, NodeState.READY, f"worker {owner} died")
            return len(nodes)

    def release(self, lease: Lease) -> None:
        """Hand the node back to the queue as it is. Raises LeaseLost."""
        self._end(lease, NodeState.READY, None)

    def pause_node(self, lease: Lease, diagnosis: str) -> None:
        """Stop until a person has looked. Raises LeaseLost."""
        self._end(lease, NodeState.PAUSED, diagnosis)

    def fail_node(self, lease: Lease, reason: str) -> None:
        """The node cannot go on. Raises LeaseLost."""
        self._end(lease, NodeState.FAILED, reason)

    def fail_export(self, lease: Lease, reason: str) -> None:
        """All is found and scored, but the file could not be written. Raises LeaseLost."""
        self._end(lease, NodeState.EXPORT_FAILED, reason)

    def end_search(self, lease: Lease, reason: str) -> None:
        """The search is over for `reason`; held-out scores and the export follow. Raises LeaseLost."""
        with self._write() as session:
            node = leased_node(session, lease)
            node.stop_reason = reason
            record(
                session,
                node.job_id,
                "search.ended",
                {"node": node.name, "position": node.position, "reason": reason},
                node.id,
            )

    def announce_output(self, lease: Lease, sha256: str) -> None:
        """Say which file is about to appear. Raises LeaseLost.

        A worker that is killed between the file and its row leaves a file that its successor knows by hash.
        """
        with self._write() as session:
            leased_node(session, lease).output_sha256 = sha256

    def finish_node(self, lease: Lease, score: float | None, made: NewCheckpoint | None) -> None:
        """End a node with what it is worth and the file it made; nodes that waited for it may begin.

        A node that is finished again, after it was extended, has its new file in the place of the old one.
        All in one transaction. Raises LeaseLost.
        """
        with self._write() as session:
            node = leased_node(session, lease)
            node.score = score
            if made is not None:
                _put_checkpoint(session, node, made)
            move_node(session, node, NodeState.DONE)
            settle(session, node.job)

    def _end(self, lease: Lease, state: NodeState, reason: str | None) -> None:
        with self._write() as session:
            move_node(session, leased_node(session, lease), state, reason)


def _take(session: Session, node: Node, owner: str, seconds: float) -> Lease:
    if node.state is NodeState.RUNNING:
        data = {"node": node.name, "position": node.position, "lost_by": node.lease_owner}
        record(session, node.job_id, "lease.expired", data, node.id)
    else:
        move_node(session, node, NodeState.RUNNING)
    node.lease += 1
    node.lease_owner, node.lease_seconds, node.heartbeat_at = owner, seconds, time.time()
    node.started_at = node.started_at or node.heartbeat_at
    data = {"node": node.name, "position": node.position, "lease": node.lease, "owner": owner}
    record(session, node.job_id, "lease.taken", data, node.id)
    return Lease(node.id, node.job_id, node.lease)


def _put_checkpoint(session: Session, node: Node, made: NewCheckpoint) -> None:
    row = session.scalars(select(Checkpoint).where(Checkpoint.node_id == node.id)).one_or_none()
    if row is None:
        row = Checkpoint(node_id=node.id)
        session.add(row)
    row.name, row.path, row.sha256, row.size = made.name, str(made.path), made.sha256, made.size
    row.inspection, row.recipe, row.created_at = made.inspection, made.recipe, time.time()
    row.collected_at = None
    node.output_sha256 = made.sha256
    data = {"position": node.position, "node": node.name, "name": made.name, "sha256": made.sha256}
    record(session, node.job_id, "checkpoint.written", data, node.id)
