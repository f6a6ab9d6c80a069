"""Workers in the store: who lives, on which device, and what each is at."""

from __future__ import annotations

import time

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from service.db.database import Database
from service.db.models import Node, Render, Trial, WorkerRow
from service.db.records import WorkerRecord, WorkerSign, WorkerTask
from service.db.states import NodeState, TrialState


class WorkerStore(Database):
    """The storage contract of the list of workers. No lease fences it: it says who showed a sign of life."""

    def show_worker(self, sign: WorkerSign, dead_seconds: float) -> None:
        """Write a worker's row, and take off those that were silent for `dead_seconds`."""
        with self._write() as session:
            now = time.time()
            session.execute(delete(WorkerRow).where(func.abs(now - WorkerRow.heartbeat_at) > dead_seconds))
            session.merge(WorkerRow(**sign.__dict__, heartbeat_at=now))

    def remove_worker(self, owner: str) -> None:
        """Take a worker off the list: it ended, or its process is gone."""
        with self._write() as session:
            session.execute(delete(WorkerRow).where(WorkerRow.owner == owner))

    def workers(self) -> list[WorkerRecord]:
        """All workers on the list with what they work on, by host and process."""
        with self._read() as session:
            rows = session.scalars(select(WorkerRow).order_by(WorkerRow.host, WorkerRow.pid)).all()
            return [
                WorkerRecord.model_validate(
                    {**{name: getattr(row, name) for name in _OF_A_ROW}, "task": _task(session, row.owner)}
                )
                for row in rows
            ]


_OF_A_ROW = WorkerRecord.model_fields.keys() - {"task"}


def _task(session: Session, owner: str) -> WorkerTask | None:
    """What a worker's lease says it is at: its node, the open trial there, and how far that is."""
    held = select(Node).where(Node.lease_owner == owner, Node.state == NodeState.RUNNING)
    node = session.scalars(held.limit(1)).one_or_none()
    if node is None:
        return None
    trial = session.scalars(
        select(Trial)
        .where(Trial.node_id == node.id, Trial.state == TrialState.OPEN)
        .order_by(Trial.id.desc())
        .limit(1)
    ).one_or_none()
    done = trial and session.scalar(select(func.count()).where(Render.trial_id == trial.id))
    return WorkerTask(
        job=node.job_id,
        job_name=node.job.name,
        node=node.name,
        trial=trial.number if trial else None,
        kind=trial.kind if trial else None,
        renders=done or 0,
    )
