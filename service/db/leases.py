"""Leases in the store: who works on which node, and that nobody else can write to it.

A lease carries a number that grows with every lease of the node; each write checks it in its own
transaction. A worker that slept past its lease and woke up finds every write refused.
"""

from __future__ import annotations

import time

from sqlalchemy import func, or_, select

from service.db.database import Database, leased_node, move_node, record
from service.db.models import Checkpoint, Job, Node
from service.db.records import Lease, NewCheckpoint
from service.db.states import NodeState


class LeaseStore(Database):
    """The storage contract of leases and of how a node ends."""

    def lease_node(self, owner: str, seconds: float, *, job_id: str | None = None) -> Lease | None:
        """Take the next runnable node: a ready one, or a running one whose worker fell silent.

        owner: a name for the worker. seconds: silence after which the lease may be taken over.
        job_id: only nodes of this job. Returns None when there is nothing to do.
        """
        now = time.time()
        # The distance, not the difference: after the clock was moved back, a heartbeat from the
        # future must not hold a dead worker's node for as long as the clock was moved.
        silence = func.abs(now - Node.heartbeat_at)
        expired = (Node.state == NodeState.RUNNING) & or_(
            Node.heartbeat_at.is_(None), silence > Node.lease_seconds
        )
        runnable = (
            select(Node)
            .join(Job)
            .where(or_(Node.state == NodeState.READY, expired))
            .order_by(Job.priority.desc(), Job.created_at, Node.position)
            .limit(1)
            .with_for_update(skip_locked=True, of=Node)
        )
        if job_id is not None:
            runnable = runnable.where(Node.job_id == job_id)
        with self._write() as session:
            node = session.scalars(runnable).one_or_none()
            if node is None:
                return None
            if node.state is NodeState.RUNNING:
                data = {"position": node.position, "lost_by": node.lease_owner}
                record(session, node.job_id, "lease.expired", data, node.id)
            else:
                move_node(session, node, NodeState.RUNNING)
            node.lease += 1
            node.lease_owner, node.lease_seconds, node.heartbeat_at = owner, seconds, now
            node.started_at = node.started_at or now
            data = {"position": node.position, "lease": node.lease, "owner": owner}
            record(session, node.job_id, "lease.taken", data, node.id)
            return Lease(node.id, node.job_id, node.lease)

    def heartbeat(self, lease: Lease) -> None:
        """Show that the worker lives. Raises LeaseLost."""
        with self._write() as session:
            leased_node(session, lease).heartbeat_at = time.time()

    def owners(self) -> set[str]:
        """The names of all workers that hold a lease."""
        held = select(Node.lease_owner).where(Node.state == NodeState.RUNNING, Node.lease_owner.is_not(None))
        with self._read() as session:
            return {owner for owner in session.scalars(held) if owner}

    def release_owner(self, owner: str) -> int:
        """Hand back all nodes of a worker known to be dead; how many they were."""
        with self._write() as session:
            held = select(Node).where(Node.state == NodeState.RUNNING, Node.lease_owner == owner)
            nodes = list(session.scalars(held.with_for_update()))
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
                session, node.job_id, "search.ended", {"position": node.position, "reason": reason}, node.id
            )

    def finish_node(self, lease: Lease, made: NewCheckpoint) -> None:
        """Record the node's output and end it, in one transaction. Raises LeaseLost."""
        with self._write() as session:
            node = leased_node(session, lease)
            session.add(
                Checkpoint(
                    node_id=node.id,
                    name=made.name,
                    path=str(made.path),
                    sha256=made.sha256,
                    size=made.size,
                    inspection=made.inspection,
                    recipe=made.recipe,
                )
            )
            data = {"position": node.position, "name": made.name, "sha256": made.sha256}
            record(session, node.job_id, "checkpoint.written", data, node.id)
            move_node(session, node, NodeState.DONE)

    def _end(self, lease: Lease, state: NodeState, reason: str | None) -> None:
        with self._write() as session:
            move_node(session, leased_node(session, lease), state, reason)
