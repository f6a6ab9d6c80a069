"""What the metrics and the readiness ask of the database: a few counts, each in one query."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.db.database import Database
from service.db.migrate import is_current
from service.db.models import Job, Node, Render, Trial, WorkerRow
from service.db.states import JobState, NodeState, TrialState

RECENT_SECONDS = 60.0
LATE_RENDERS = 10_000
_RECENT_ROWS = 5_000
_ACTIVE = (NodeState.WAITING, NodeState.READY, NodeState.RUNNING)


@dataclass(frozen=True)
class LiveWorker:
    """A worker as it last told of itself. Memory in bytes, of its device."""

    owner: str
    device: str
    memory_used: int | None
    memory_total: int | None
    silent_seconds: float


@dataclass(frozen=True)
class Figures:
    """An installation at one moment.

    trial_failures: reason -> how many. node_reasons: (state, reason) of failed and paused nodes -> how many.
    renders_per_second: over the last minute. queue_seconds: for how long the oldest ready node waits, 0 where
    none does.
    """

    jobs: dict[str, int]
    nodes: dict[str, int]
    trials: dict[str, int]
    trial_failures: dict[str, int]
    node_reasons: dict[tuple[str, str | None], int]
    renders: int
    renders_per_second: float
    queue_seconds: float
    workers: Sequence[LiveWorker] = field(default_factory=tuple)


class FiguresStore(Database):
    """The storage contract of metrics and readiness."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._renders_counted = (0, 0)

    def figures(self) -> Figures:
        """Counts of everything. The renders that were counted once are not counted again."""
        now = time.time()
        with self._read() as session:
            jobs = session.execute(select(Job.state, func.count()).group_by(Job.state))
            job_counts = {state.value: 0 for state in JobState} | {s.value: n for s, n in jobs}
            nodes = session.execute(
                select(Node.state, Node.reason, func.count()).group_by(Node.state, Node.reason)
            )
            node_counts = Counter({state.value: 0 for state in NodeState})
            reasons: Counter[tuple[str, str | None]] = Counter()
            for state, reason, count in nodes:
                node_counts[state.value] += count
                if state in (NodeState.FAILED, NodeState.PAUSED, NodeState.EXPORT_FAILED):
                    reasons[(state.value, reason)] += count
            states = session.execute(select(Trial.state, func.count()).group_by(Trial.state))
            trial_counts = {state.value: 0 for state in TrialState} | {s.value: n for s, n in states}
            failures = session.execute(
                select(Trial.reason, func.count())
                .where(Trial.state == TrialState.FAILED)
                .group_by(Trial.reason)
            )
            trial_failures = {reason or "": count for reason, count in failures}
            oldest = session.scalar(select(func.min(Node.created_at)).where(Node.state == NodeState.READY))
            renders = self._count_renders(session)
            recent = (
                select(Render.created_at.label("at"))
                .order_by(Render.id.desc())
                .limit(_RECENT_ROWS)
                .subquery()
            )
            lately = session.scalar(
                select(func.count()).select_from(recent).where(recent.c.at > now - RECENT_SECONDS)
            )
            workers = session.scalars(select(WorkerRow)).all()
        return Figures(
            jobs=job_counts,
            nodes=dict(node_counts),
            trials=trial_counts,
            trial_failures=trial_failures,
            node_reasons=dict(reasons),
            renders=renders,
            renders_per_second=(lately or 0) / RECENT_SECONDS,
            queue_seconds=0.0 if oldest is None else max(0.0, now - oldest),
            workers=[_live(worker, now) for worker in workers],
        )

    def live_workers(self) -> list[LiveWorker]:
        """The workers that have a row, with how long each has been silent."""
        now = time.time()
        with self._read() as session:
            return [_live(worker, now) for worker in session.scalars(select(WorkerRow))]

    def has_live_lease(self) -> bool:
        """Whether some worker holds a node and was heard within its lease."""
        silence = func.abs(time.time() - Node.heartbeat_at)
        held = select(Node.id).where(Node.state == NodeState.RUNNING, silence <= Node.lease_seconds).limit(1)
        with self._read() as session:
            return session.scalar(held) is not None

    def is_migrated(self) -> bool:
        """Whether the tables are those of this version. Raises SQLAlchemyError when the database is away."""
        return is_current(self.engine)

    def active_plans(self, most: int = 200) -> list[tuple[str, dict[str, Any]]]:
        """(job, plan) of nodes that are worked on or will be."""
        wanted = select(Node.job_id, Node.plan).where(Node.state.in_(_ACTIVE)).order_by(Node.id).limit(most)
        with self._read() as session:
            return [(job_id, plan) for job_id, plan in session.execute(wanted)]

    def _count_renders(self, session: Session) -> int:
        """All renders; those that were counted once, and that none can come before any more, are not counted
        again. PostgreSQL may commit a lower number late, so the newest are counted anew each time."""
        last, counted = self._renders_counted
        newest, added = session.execute(
            select(func.max(Render.id), func.count()).where(Render.id > last)
        ).one()
        if added > 2 * LATE_RENDERS:
            until = newest - LATE_RENDERS
            settled = session.scalar(select(func.count()).where(Render.id > last, Render.id <= until)) or 0
            self._renders_counted = (until, counted + settled)
        return counted + int(added)


def _live(row: WorkerRow, now: float) -> LiveWorker:
    return LiveWorker(row.owner, row.device, row.memory_used, row.memory_total, abs(now - row.heartbeat_at))
