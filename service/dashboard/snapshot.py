"""What the pages show, read from the database once per process and handed to all browsers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import OperationalError

from service.db.new_events import NewEvents
from service.db.store import Store

log = logging.getLogger(__name__)
T = TypeVar("T")
POLL_SECONDS = 0.3
REST, LONGEST_REST = 9.0, 0.9
"""A topic that took t seconds to read and to tell is left alone for REST · t, but for no longer than
LONGEST_REST seconds: the page costs a tenth of a core at most, unless that made it late."""
REST_OF_TELLING = 3.0
"""The same for the telling alone, but without an end: nothing else is answered by this process meanwhile, so
telling has a quarter of its time at most."""
TROUBLE_SECONDS = 2.0
KEPT_SECONDS = 30.0
"""For so long what nobody watches is kept, for who comes back."""


@dataclass(frozen=True)
class Topic(Generic[T]):
    """Something that pages show, and how it is read. Topics of one key are read once for all browsers.

    job_id: only events of this job make it stale; None: those of any job. every: it is read anew after so
    many seconds in any case, for what changes without an event, such as heartbeats.
    """

    key: Hashable
    read: Callable[[Store], T]
    job_id: str | None = None
    every: float | None = None


@dataclass(frozen=True)
class Reading(Generic[T]):
    """What was read. trouble: in words, where it could not be; the value is then the one before, if any."""

    value: T | None
    trouble: str | None = None


Show = Callable[[Reading[T]], None]


@dataclass
class _Entry:
    topic: Topic[Any]
    watchers: list[Show[Any]] = field(default_factory=list)
    reading: Reading[Any] | None = None
    stale: bool = True
    read_at: float = 0.0
    rests_until: float = 0.0
    left_at: float = 0.0


class Snapshot:
    """Reads topics while somebody watches them, and tells everybody who does when one has changed.

    One query per poll asks for new events; a topic is read again only when an event of its job came. Call
    everything from the event loop; reading happens in threads. With no watcher the database is left alone.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._entries: dict[Hashable, _Entry] = {}
        self._task: asyncio.Task[None] | None = None
        self._events = NewEvents(store)

    def watch(self, topic: Topic[T], show: Show[T]) -> Callable[[], None]:
        """Call `show` with the topic's reading, soon and after every change, until the returned is called."""
        if not self._is_polling():
            # What was read before is old, and what is read now must be told even if it is equal.
            self._entries.clear()
            self._task = asyncio.create_task(self._poll(), name="snapshot")
        entry = self._entries.setdefault(topic.key, _Entry(topic))
        entry.watchers.append(show)
        if entry.reading is not None:
            _tell(show, entry.reading)

        def leave() -> None:
            if show in entry.watchers:
                entry.watchers.remove(show)
                entry.left_at = time.monotonic()

        return leave

    def known(self, topic: Topic[T]) -> T | None:
        """What was read of a topic that somebody watches now; None where nothing was."""
        entry = self._entries.get(topic.key)
        fresh = entry is not None and entry.reading is not None and self._is_polling()
        return entry.reading.value if fresh and entry and entry.reading else None

    @property
    def watchers(self) -> int:
        """How many watch by now."""
        return sum(len(entry.watchers) for entry in self._entries.values())

    def _is_polling(self) -> bool:
        return self._task is not None and not self._task.done()

    async def _poll(self) -> None:
        self._events = NewEvents(self._store)
        while self._forget():
            try:
                await self._mark_stale()
                for entry in list(self._entries.values()):
                    if entry.watchers and self._is_due(entry):
                        await self._read(entry)
                await asyncio.sleep(POLL_SECONDS)
            except OperationalError as error:
                log.warning("the page waits for the database: %s", error.args[0])
                self._tell_trouble(
                    "The database does not answer. What you see is from before; it goes on by itself."
                )
                await asyncio.sleep(TROUBLE_SECONDS)

    def _forget(self) -> bool:
        """Drop what nobody watched for some time; whether anybody watches anything."""
        now = time.monotonic()
        for key, entry in list(self._entries.items()):
            if not entry.watchers and now - entry.left_at > KEPT_SECONDS:
                del self._entries[key]
        return self.watchers > 0

    async def _mark_stale(self) -> None:
        jobs = {job_id for _, job_id, _ in await run_in_threadpool(self._events.read)}
        now = time.monotonic()
        for entry in self._entries.values():
            every = entry.topic.every
            of_its_job = entry.topic.job_id in jobs if entry.topic.job_id else bool(jobs)
            entry.stale |= of_its_job or (every is not None and now - entry.read_at >= every)

    def _is_due(self, entry: _Entry) -> bool:
        return entry.stale and time.monotonic() >= entry.rests_until

    async def _read(self, entry: _Entry) -> None:
        began = time.monotonic()
        entry.stale = False
        try:
            reading = Reading(await run_in_threadpool(entry.topic.read, self._store))
        except OperationalError:
            entry.stale = True
            raise
        except Exception as error:
            # One topic that cannot be read must not stop the others.
            log.debug("topic %s: %s", entry.topic.key, error, exc_info=True)
            reading = Reading(None, str(error) or type(error).__name__)
        entry.read_at = time.monotonic()
        telling = 0.0
        if reading != entry.reading:
            entry.reading = reading
            for show in list(entry.watchers):
                telling += await _tell_between(entry, show, reading)
        cost = entry.read_at - began + telling
        rest = max(min(LONGEST_REST, REST * cost), REST_OF_TELLING * telling)
        entry.rests_until = time.monotonic() + rest

    def _tell_trouble(self, words: str) -> None:
        for entry in self._entries.values():
            reading = Reading(entry.reading.value if entry.reading else None, words)
            if reading != entry.reading:
                entry.reading, entry.stale = reading, True
                for show in list(entry.watchers):
                    _tell(show, reading)


async def _tell_between(entry: _Entry, show: Show[T], reading: Reading[T]) -> float:
    """Tell one of many, and let others have their turn; the seconds that it took."""
    if show not in entry.watchers:  # left while others were told
        return 0.0
    began = time.perf_counter()
    _tell(show, reading)
    took = time.perf_counter() - began
    await asyncio.sleep(0)
    return took


def _tell(show: Show[T], reading: Reading[T]) -> None:
    try:
        show(reading)
    except Exception:
        # A browser that fails to be drawn must not keep the others from being.
        log.exception("a page could not show what was read")
