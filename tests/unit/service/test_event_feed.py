"""The events of a job, read once for all who follow it, and told to each whole and in order."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest
from sqlalchemy.exc import OperationalError

from service.api import event_feed
from service.api.event_feed import EventFeeds
from service.db.records import EventRecord
from service.db.store import Store
from tests.contract.store_contract import new_job


@pytest.fixture
def job_id(store: Store) -> str:
    return store.create_job(new_job()).id


class Follower:
    """Reads a job's stream from an event on. chunks: as they came."""

    def __init__(self, feeds: EventFeeds, store: Store, job_id: str, after: int = 0) -> None:
        self.chunks: list[bytes] = []
        newest = store.last_event_id(job_id)
        self.task = asyncio.create_task(self._read(feeds.follow(job_id, after=after, newest=newest)))

    async def _read(self, stream: AsyncIterator[bytes]) -> None:
        async for chunk in stream:
            self.chunks.append(chunk)

    @property
    def seen(self) -> list[int]:
        return [int(number) for number in re.findall(rb"^id: (\d+)$", b"".join(self.chunks), re.MULTILINE)]


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 30))


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


def all_have(followers: list[Follower], event_id: int) -> bool:
    return all(follower.seen[-1:] == [event_id] for follower in followers)


def numbers(store: Store, job_id: str) -> list[int]:
    return [event.id for event in store.events(job_id)]


def test_every_follower_gets_every_event_once_and_in_order_wherever_it_begins(
    store: Store, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "KEPT", 5)

    async def story() -> None:
        feeds = EventFeeds(store, threading.Event())
        half = numbers(store, job_id)[1]
        followers = [Follower(feeds, store, job_id), Follower(feeds, store, job_id, half)]
        for priority in range(40):
            store.set_priority(job_id, priority)
            if priority in (3, 25):
                followers.append(Follower(feeds, store, job_id))
            await asyncio.sleep(0.02)
        store.cancel_job(job_id)
        await asyncio.gather(*(follower.task for follower in followers))
        whole = numbers(store, job_id)
        assert followers[0].seen == followers[2].seen == followers[3].seen == whole
        assert followers[1].seen == whole[2:]

    run(story)


def test_the_database_is_read_for_the_job_and_not_for_each_who_follows_it(
    store: Store, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    events = store.events

    def counted(job: str, *, after: int = 0, limit: int = 500) -> list[EventRecord]:
        reads.append(after)
        return events(job, after=after, limit=limit)

    async def story() -> None:
        feeds = EventFeeds(store, stopping := threading.Event())
        newest = store.last_event_id(job_id)
        followers = [Follower(feeds, store, job_id, newest) for _ in range(20)]
        monkeypatch.setattr(store, "events", counted)
        for priority in range(3):
            store.set_priority(job_id, priority)
            last = store.last_event_id(job_id)
            await until(partial(all_have, followers, last))
        stopping.set()
        await asyncio.gather(*(follower.task for follower in followers))
        assert len(reads) < 12

    run(story)


def test_a_stream_ends_with_the_job_and_when_the_service_stops(store: Store, job_id: str) -> None:
    other = store.create_job(new_job("another")).id

    async def story() -> None:
        feeds = EventFeeds(store, stopping := threading.Event())
        first, second = Follower(feeds, store, job_id), Follower(feeds, store, other)
        store.cancel_job(job_id)
        await first.task
        assert first.seen == numbers(store, job_id)
        assert not second.task.done()
        stopping.set()
        await second.task
        again = Follower(EventFeeds(store, threading.Event()), store, job_id)
        await again.task
        assert again.seen == first.seen

    run(story)


def test_who_leaves_leaves_nothing_behind(store: Store, job_id: str) -> None:
    async def story() -> None:
        feeds = EventFeeds(store, threading.Event())
        followers = [Follower(feeds, store, job_id) for _ in range(2)]
        await until(lambda: all(follower.seen for follower in followers))
        for follower in followers:
            follower.task.cancel()
        await asyncio.wait([follower.task for follower in followers])
        await until(lambda: len(asyncio.all_tasks()) == 2)  # this one, and that which waits for it
        back = Follower(feeds, store, job_id)
        store.cancel_job(job_id)
        await back.task
        assert back.seen == numbers(store, job_id)

    run(story)


def test_while_nothing_happens_a_comment_shows_that_the_stream_lives(
    store: Store, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "QUIET_SECONDS", 0.05)

    async def story() -> None:
        feeds = EventFeeds(store, stopping := threading.Event())
        follower = Follower(feeds, store, job_id, store.last_event_id(job_id))
        await until(lambda: len(follower.chunks) > 2)
        assert set(follower.chunks) == {b": ping\n\n"}
        stopping.set()
        await follower.task

    run(story)


def test_a_database_that_is_away_is_waited_for(
    store: Store, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "DATABASE_SECONDS", 0.02)

    async def story() -> None:
        feeds = EventFeeds(store, threading.Event())
        follower = Follower(feeds, store, job_id, store.last_event_id(job_id))
        late = await missed_by(feeds, monkeypatch)
        await until(lambda: follower.seen == late.seen[-1:])
        assert late.seen == numbers(store, job_id)
        store.cancel_job(job_id)
        await asyncio.gather(follower.task, late.task)

    async def missed_by(feeds: EventFeeds, patched: pytest.MonkeyPatch) -> Follower:
        """Somebody who comes while the database is away, and an event meanwhile."""

        def away(*_: object, **__: object) -> list[EventRecord]:
            raise OperationalError("SELECT", {}, Exception("away"))

        with patched.context() as gone:
            gone.setattr(store, "events", away)
            late = Follower(feeds, store, job_id)
            await asyncio.sleep(0.5)
            assert not late.chunks
            assert not late.task.done()
            store.set_priority(job_id, 5)
        await until(lambda: bool(late.seen))
        return late

    run(story)
