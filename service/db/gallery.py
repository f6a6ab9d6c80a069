"""Renders in the store as a contact sheet needs them: a page at a time, however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select

from service.db.database import Database
from service.db.models import Event, Job, Node, Render, Trial
from service.db.records import GalleryRender
from service.db.rows import records
from service.db.states import RenderState, TrialKind

SIZES_KEPT = 200


@dataclass(frozen=True)
class Place:
    """Where a page of the gallery ends: the page after it begins behind this render."""

    trial_id: int
    probe: int


@dataclass(frozen=True)
class Wanted:
    """Which renders: of a job (id), a node (name), kinds of trials, a trial (number), a probe."""

    job: str | None = None
    node: str | None = None
    kinds: Sequence[TrialKind] = tuple(TrialKind)
    trial: int | None = None
    probe: int | None = None


class GalleryStore(Database):
    """The storage contract of the gallery: newest trials first, in each the probes in their order."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._sizes: dict[Wanted, tuple[int, int]] = {}

    def gallery(self, wanted: Wanted, *, after: Place | None, limit: int) -> list[GalleryRender]:
        """A page of renders whose images are kept, behind `after`; shorter than `limit` at the end.

        The order is that of the index over trial and probe, so a page costs the same wherever it lies.
        """
        columns = (
            Render.id,
            Render.sha256,
            Render.probe,
            Render.state,
            Render.trial_id,
            Trial.number,
            Trial.kind,
            Trial.state,
            Trial.score,
            Node.name,
            Node.job_id,
            Job.name,
        )
        page = _wanted(wanted, *columns)
        if after is not None:
            page = page.where(_behind(after))
        page = page.order_by(Render.trial_id.desc(), Render.probe).limit(limit)
        with self._read() as session:
            return records(GalleryRender, session.execute(page))

    def gallery_size(self, wanted: Wanted) -> int:
        """How many renders are wanted in all; counted once for each event, of whichever job."""
        wanted = replace(wanted, kinds=tuple(wanted.kinds))
        with self._read() as session:
            newest = session.scalar(select(func.max(Event.id))) or 0
            counted = self._sizes.get(wanted)
            if counted is None or counted[0] != newest:
                counted = (newest, session.scalar(_counted(wanted)) or 0)
                if len(self._sizes) >= SIZES_KEPT:
                    self._sizes.clear()
                self._sizes[wanted] = counted
        return counted[1]


def _counted(wanted: Wanted) -> Select[Any]:
    if wanted == Wanted():
        # The same without what every render has: a trial, a node, a job.
        return select(func.count()).select_from(Render).where(Render.state == RenderState.STORED)
    return _wanted(wanted, func.count())


def _wanted(wanted: Wanted, *columns: Any) -> Select[Any]:
    found: Select[Any] = (
        select(*columns)
        .select_from(Render)
        .join(Trial, Trial.id == Render.trial_id)
        .join(Node, Node.id == Trial.node_id)
        .join(Job, Job.id == Node.job_id)
        .where(Render.state == RenderState.STORED)
    )
    if wanted.job is not None:
        found = found.where(Node.job_id == wanted.job)
    if wanted.node is not None:
        found = found.where(Node.name == wanted.node)
    if set(wanted.kinds) != set(TrialKind):
        found = found.where(Trial.kind.in_(wanted.kinds))
    if wanted.trial is not None:
        found = found.where(Trial.number == wanted.trial)
    if wanted.probe is not None:
        found = found.where(Render.probe == wanted.probe)
    return found


def _behind(place: Place) -> ColumnElement[bool]:
    # Said twice: of an "or" alone SQLite makes a scan of all that lies before the page.
    return and_(
        Render.trial_id <= place.trial_id,
        or_(Render.trial_id < place.trial_id, Render.probe > place.probe),
    )
