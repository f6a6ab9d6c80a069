"""What has happened by now, for answers that are kept until something does."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from enum import Enum

from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import OperationalError

from service.db.engine import CommitCount
from service.db.new_events import NewEvents
from service.db.store import Store

log = logging.getLogger(__name__)


class Until(Enum):
    """What ends that an answer is true."""

    NEVER = "never"
    EVENT = "event"
    """Any event."""
    CHANGE = "change"
    """Any event but those that only add: trials that begin and end, renders that are stored."""
    MOVE = "move"
    """An event of a job itself: it was queued, changed its state or its priority."""


@dataclass(frozen=True)
class Truth:
    """How long an answer is true: until this happens to this job, or to any job where it is None."""

    until: Until
    job_id: str | None = None


class News:
    """Counts events as they become known to this process. Call it from the event loop.

    An answer whose handler began at `count` is still true as long as `happened` says no more than that.
    """

    def __init__(self, store: Store) -> None:
        self.count = 0
        self._latest: dict[Truth, int] = {}
        self._events = NewEvents(store)
        self._commits = CommitCount(store.engine)
        self._known_at: int | None = None
        self._reading: asyncio.Task[bool] | None = None
        self._next: asyncio.Task[bool] | None = None

    def happened(self, truth: Truth) -> int:
        """What was counted when that happened for the last time; 0 where it has not, as far as is known."""
        return self._latest.get(truth, 0)

    async def arrive(self) -> bool:
        """Know of all that was committed before this was called; False where the database does not answer."""
        commits = self._commits.now()
        if commits is not None and commits == self._known_at:
            return True
        if self._next is None:
            self._next = asyncio.create_task(self._read_after(self._reading))
        return await asyncio.shield(self._next)

    async def begin(self) -> bool:
        """The same, but where all that happens from now on will be known of, that is enough."""
        return self._events.has_begun or await self.arrive()

    def close(self) -> None:
        """Give the connection back."""
        self._commits.close()

    async def _read_after(self, before: asyncio.Task[bool] | None) -> bool:
        if before is not None:
            await asyncio.wait((before,))
        # Who comes from now on may have to know of more, and waits for the reading after this one.
        self._reading, self._next = self._next, None
        commits = self._commits.now()
        if commits is not None and commits == self._known_at:
            return True
        try:
            found = await run_in_threadpool(self._events.read)
        except OperationalError as error:
            log.warning("answers are not kept: %s", error.args[0])
            return False
        for _, job_id, kind in found:
            self._note(job_id, kind)
        self._known_at = commits
        return True

    def _note(self, job_id: str, kind: str) -> None:
        self.count += 1
        met = [Until.EVENT]
        if kind != "render.stored" and not kind.startswith("trial."):
            met.append(Until.CHANGE)
        if kind.startswith("job."):
            met.append(Until.MOVE)
        for until in met:
            self._latest[Truth(until)] = self._latest[Truth(until, job_id)] = self.count
