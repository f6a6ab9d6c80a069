"""One snapshot per process: who is told what, how often the database is asked, and when it is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from sqlalchemy.exc import OperationalError

from service.dashboard.snapshot import Reading, Snapshot, Topic
from service.db.store import Store
from tests.contract.store_contract import new_job


class Counted:
    """Reads a job's state, and counts how often."""

    def __init__(self, job_id: str) -> None:
        self.job_id, self.times = job_id, 0

    def __call__(self, store: Store) -> str:
        self.times += 1
        return str(store.job(self.job_id).state)


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 30))


def note(seen: list[str | None], reading: Reading[str]) -> None:
    seen.append(reading.value)


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


def test_many_watchers_cost_one_reading_and_all_are_told_of_a_change(store: Store) -> None:
    read = Counted(store.create_job(new_job()).id)
    told: list[list[str | None]] = [[] for _ in range(20)]

    async def story() -> None:
        snapshot = Snapshot(store)
        for seen in told:
            snapshot.watch(Topic("it", read, job_id=read.job_id), partial(note, seen))
        await until(lambda: all(seen == ["queued"] for seen in told))
        store.pause_job(read.job_id)
        await until(lambda: all(seen == ["queued", "paused"] for seen in told))

    run(story)
    assert read.times == 2


def test_events_of_another_job_are_no_reason_to_read(store: Store) -> None:
    mine, other = store.create_job(new_job("a")).id, store.create_job(new_job("b")).id
    read, all_jobs = Counted(mine), Counted(other)
    told: list[str | None] = []

    async def story() -> None:
        snapshot = Snapshot(store)
        snapshot.watch(Topic("mine", read, job_id=mine), lambda _reading: None)
        snapshot.watch(Topic("all", all_jobs), lambda reading: told.append(reading.value))
        await until(lambda: told == ["queued"] and read.times == 1)
        store.pause_job(other)
        await until(lambda: told == ["queued", "paused"])

    run(story)
    assert read.times == 1


def test_nobody_watches_then_nothing_is_read_and_who_comes_back_is_told(store: Store) -> None:
    read = Counted(store.create_job(new_job()).id)
    told: list[Reading[str]] = []

    async def story() -> None:
        snapshot = Snapshot(store)
        leave = snapshot.watch(Topic("it", read), told.append)
        await until(lambda: len(told) == 1)
        leave()
        await until(lambda: not snapshot._is_polling())
        store.pause_job(read.job_id)
        store.resume_job(read.job_id)
        await asyncio.sleep(0.5)
        assert read.times == 1
        snapshot.watch(Topic("it", read), told.append)
        await until(lambda: len(told) == 2)

    run(story)
    assert told == [Reading("queued"), Reading("queued")]


def test_what_cannot_be_read_is_said_and_what_was_known_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Counted(store.create_job(new_job()).id)
    told: list[Reading[str]] = []
    missing: list[Reading[str]] = []

    def away(_after: int) -> list[tuple[int, str]]:
        raise OperationalError("select", {}, Exception("the disk is gone"))

    async def story() -> None:
        snapshot = Snapshot(store)
        snapshot.watch(Topic("it", read), told.append)
        snapshot.watch(Topic("no", Counted("nosuchjob")), missing.append)
        await until(lambda: bool(told and missing))
        monkeypatch.setattr(store, "events_around", away)
        await until(lambda: len(told) == 2)
        monkeypatch.undo()
        await until(lambda: len(told) == 3)

    run(story)
    assert missing[0].value is None
    assert "there is no job 'nosuchjob'" in str(missing[0].trouble)
    assert (told[1].value, told[2]) == ("queued", Reading("queued"))
    assert "database does not answer" in str(told[1].trouble)


def test_a_page_that_fails_to_be_drawn_does_not_keep_others_from_being(store: Store) -> None:
    read = Counted(store.create_job(new_job()).id)
    told: list[Reading[str]] = []

    def broken(_reading: Reading[str]) -> None:
        raise RuntimeError("its browser is gone")

    async def story() -> None:
        snapshot = Snapshot(store)
        snapshot.watch(Topic("it", read), broken)
        snapshot.watch(Topic("it", read), told.append)
        await until(lambda: bool(told))

    run(story)
