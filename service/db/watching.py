"""What the page asks of the database: what changed, and figures of a whole job in one query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, select

from service.db.database import Database
from service.db.models import Event, Job, Node, Render, Trial
from service.db.records import EventRecord
from service.db.rows import columns, records
from service.db.states import TRIAL_ENDED, TrialKind, TrialState

LATE = 200
"""How many events back are read again: those of two jobs may be committed in another order than numbered."""

PASSING = ("trial.opened", "render.stored")
"""Kinds of events that leave all as it was but the count of renders."""


class SearchStamp(NamedTuple):
    """Of the search trials that ended: how many, the best score, and sums."""

    ended: int
    best: float | None
    scores: float | None
    estimates: float | None
    seconds: float | None


class WatchStore(Database):
    """The storage contract of those who watch."""

    def newest_event(self) -> int:
        """The number of the newest event of all jobs; 0 before the first."""
        with self._read() as session:
            return session.scalar(select(func.max(Event.id))) or 0

    def newest_jobs(self, limit: int) -> list[tuple[str, int]]:
        """(job, number of its newest event) of the newest jobs, the newest first."""
        newest = select(func.max(Event.id)).where(Event.job_id == Job.id).scalar_subquery()
        wanted = select(Job.id, newest).order_by(Job.created_at.desc(), Job.id).limit(limit)
        with self._read() as session:
            return [(job_id, number) for job_id, number in session.execute(wanted)]

    def events_around(self, after: int) -> list[tuple[int, str, str]]:
        """(number, job, kind) of every event after `after`, and of some before it that may have been late."""
        wanted = select(Event.id, Event.job_id, Event.kind).where(Event.id > after - LATE).order_by(Event.id)
        with self._read() as session:
            return [(number, job_id, kind) for number, job_id, kind in session.execute(wanted)]

    def changed_nodes(self, job_id: str, after: int) -> set[int | None]:
        """The nodes (ids) of a job to which more happened after event `after` than that a trial was opened or
        renders were stored; None among them where something happened to the job itself."""
        wanted = (
            select(Event.node_id)
            .where(Event.job_id == job_id, Event.id > after, Event.kind.not_in(PASSING))
            .distinct()
        )
        with self._read() as session:
            return set(session.scalars(wanted))

    def last_events(self, job_id: str, *, kinds: Sequence[str], limit: int) -> list[EventRecord]:
        """The newest events of a job of these kinds, the newest first."""
        wanted = (
            select(*columns(EventRecord, Event))
            .where(Event.job_id == job_id, Event.kind.in_(kinds))
            .order_by(Event.id.desc())
            .limit(limit)
        )
        with self._read() as session:
            return records(EventRecord, session.execute(wanted))

    def worked_seconds(self, job_id: str) -> dict[int, float]:
        """Node id -> seconds that all its trials took by now, held-out ones too."""
        wanted = (
            select(Trial.node_id, func.coalesce(func.sum(Trial.seconds), 0.0))
            .join(Node, Node.id == Trial.node_id)
            .where(Node.job_id == job_id)
            .group_by(Trial.node_id)
        )
        with self._read() as session:
            return {node_id: float(seconds or 0.0) for node_id, seconds in session.execute(wanted)}

    def search_stamp(self, node_id: int) -> SearchStamp:
        """Numbers that change whenever a search trial of a node ends or is scored anew."""
        told = (Trial.score, Trial.estimate, Trial.seconds)
        wanted = select(func.count(), func.max(Trial.score), *(func.sum(column) for column in told)).where(
            Trial.node_id == node_id, Trial.kind == TrialKind.SEARCH, Trial.state.in_(TRIAL_ENDED)
        )
        with self._read() as session:
            return SearchStamp._make(session.execute(wanted).one())

    def renders_of_failed(self, node_id: int) -> dict[int, int]:
        """Number of a failed search trial -> how many images it had when it failed."""
        wanted = (
            select(Trial.number, func.count(Render.id))
            .join(Render, Render.trial_id == Trial.id)
            .where(Trial.node_id == node_id, Trial.kind == TrialKind.SEARCH, Trial.state == TrialState.FAILED)
            .group_by(Trial.number)
        )
        with self._read() as session:
            return dict(session.execute(wanted).all())
