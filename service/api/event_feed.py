"""New events of jobs as a stream sends them: read and written down once for all who follow a job."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator

from fastapi.concurrency import run_in_threadpool
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from sqlalchemy.exc import OperationalError

from service.api.views import event_view
from service.db.records import EventRecord
from service.db.states import JOB_FINAL, JobState
from service.db.store import Store

log = logging.getLogger(__name__)
POLL_SECONDS = 0.3
DATABASE_SECONDS = 2.0
QUIET_SECONDS = 15.0
"""After so long without an event a comment is sent, so that no proxy takes the stream for dead."""
KEPT = 1000
"""So many of the newest events are kept; a stream that is further behind reads from the database."""


class EventFeeds:
    """The feeds of one application. stopping: they all end when it is set. Call it from the event loop."""

    def __init__(self, store: Store, stopping: threading.Event) -> None:
        self._store, self._stopping = store, stopping
        self._feeds: dict[str, _Feed] = {}

    async def follow(self, job_id: str, *, after: int, newest: int) -> AsyncIterator[bytes]:
        """The job's events after this one, in the format of event streams, several in a chunk.

        newest: the number of its newest event by now. It ends when the job is done or cancelled, and when
        the service stops. While the database does not answer, it waits.
        """
        feed = self._feeds.get(job_id)
        if feed is None or feed.is_over:
            feed = self._feeds[job_id] = _Feed(self._store, job_id, newest, self._stopping)
        feed.followers += 1
        try:
            while (news := await feed.news(after)) is not None:
                after, chunk = news
                yield chunk
        finally:
            feed.followers -= 1
            if feed.followers == 0:
                feed.end()
                if self._feeds.get(job_id) is feed:
                    del self._feeds[job_id]


class _Feed:
    """One job, from its event `newest` on."""

    def __init__(self, store: Store, job_id: str, newest: int, stopping: threading.Event) -> None:
        self._store, self._job_id, self._stopping = store, job_id, stopping
        self._newest = newest
        self._whole_after = newest
        """All events after this one, as far as they were read, are kept."""
        self._frames: deque[tuple[int, bytes]] = deque()
        self._changed = asyncio.Event()
        self._polling = asyncio.create_task(self._poll(), name=f"events of {job_id}")
        self.followers = 0
        self.is_over = False

    def end(self) -> None:
        """Read no more: nobody follows."""
        self.is_over = True
        self._polling.cancel()

    async def news(self, seen: int) -> tuple[int, bytes] | None:
        """(number of the last, all of them written down) of the events after `seen`, as soon as there are
        some, or a comment after QUIET_SECONDS without; None at the end."""
        while True:
            # Taken before anything is looked at: what changes meanwhile is not waited for.
            changed = self._changed
            if seen < self._whole_after:
                return await self._from_database(seen)
            frames = [(number, frame) for number, frame in self._frames if number > seen]
            if frames:
                return frames[-1][0], b"".join(frame for _, frame in frames)
            if self.is_over:
                return None
            try:
                async with asyncio.timeout(QUIET_SECONDS):
                    await changed.wait()
            except TimeoutError:
                return seen, KEEPALIVE_COMMENT

    async def _from_database(self, seen: int) -> tuple[int, bytes] | None:
        while not self._stopping.is_set():
            try:
                found = await run_in_threadpool(self._store.events, self._job_id, after=seen)
            except OperationalError as error:
                await self._wait_for_database(error)
            else:
                return found[-1].id, b"".join(map(_frame, found))
        return None

    async def _poll(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    state, found = await run_in_threadpool(self._look)
                except OperationalError as error:
                    await self._wait_for_database(error)
                    continue
                self._keep(found)
                if not found and state in JOB_FINAL:
                    return
                if not found:
                    await asyncio.sleep(POLL_SECONDS)
        finally:
            self.is_over = True
            self._changed.set()

    def _look(self) -> tuple[JobState, list[EventRecord]]:
        # State before events: what comes between the two is sent, and the end is not missed.
        state = self._store.job(self._job_id).state
        return state, self._store.events(self._job_id, after=self._newest)

    def _keep(self, found: list[EventRecord]) -> None:
        if not found:
            return
        self._frames.extend((event.id, _frame(event)) for event in found)
        self._newest = found[-1].id
        while len(self._frames) > KEPT:
            self._whole_after, _ = self._frames.popleft()
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait_for_database(self, error: OperationalError) -> None:
        # The status is sent already, and a browser that reconnects to a 503 never comes back.
        log.warning("the stream of job %s waits for the database: %s", self._job_id, error.args[0])
        await asyncio.sleep(DATABASE_SECONDS)


def _frame(event: EventRecord) -> bytes:
    said = event_view(event).model_dump_json()
    return format_sse_event(data_str=said, event=event.kind, id=str(event.id))
