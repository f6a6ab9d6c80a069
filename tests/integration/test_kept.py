"""Answers that are kept are what a handler would answer now, and cost no handler."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import httpx
import pytest
from sqlalchemy.orm import Session

from scoring.scorers.base import ScorerSpec
from service.access.roles import Role
from service.afterwards.gc import CollectRequest, collect
from service.api import jobs, kept
from service.api.app import create_app
from service.api.news import News
from service.db.states import RenderState, TrialKind
from service.db.store import Store
from service.recent_progress import Known, recent_progress
from service.settings import Settings
from tests.contract.vote_contract import a_vote, judgements, waiting_trials
from tests.unit.service.searched import finish, leased, queue, run_trial, settings_in, weights_of


@pytest.fixture
def settings(tmp_path: Path, empty_url: str) -> Settings:
    return settings_in(tmp_path).model_copy(update={"database_url": empty_url})


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = Store(settings.database_url)
    yield store
    store.close()


@asynccontextmanager
async def client_of(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client


@dataclass
class Reader:
    """Asks for all that may be kept: as everybody does, and by a query that nobody asked before."""

    client: httpx.AsyncClient
    paths: list[str] = field(default_factory=list)
    asked: int = 0

    async def check(self) -> None:
        self.asked += 1
        for path in self.paths:
            again = f"{path}{'&' if '?' in path else '?'}nobody={self.asked}"
            kept_one, fresh = [await self.client.get(asked) for asked in (path, again)]
            assert kept_one.status_code == fresh.status_code, path
            assert kept_one.content == fresh.content, path
            assert kept_one.headers.get("etag") == fresh.headers.get("etag"), path


def paths_of(store: Store, job_id: str) -> list[str]:
    api = f"/api/v1/jobs/{job_id}"
    trials = [trial for node in store.nodes(job_id) for trial in store.trials(node.id)]
    renders = [render for trial in trials[:2] for render in store.renders(trial.id)]
    hashes = [render.sha256 for render in renders if render.state is RenderState.STORED]
    return [
        "/api/v1/jobs",
        "/api/v1/jobs?limit=1",
        api,
        f"{api}/best",
        *(f"{api}/log?limit={limit}" for limit in (1, 3, 100)),
        *(f"{api}/trials?limit={limit}&after={after}" for limit, after in ((2, -1), (2, 1), (100, -1))),
        f"{api}/trials?kind=heldout_winner",
        *(f"{api}/renders?limit={limit}" for limit in (2, 100)),
        *(f"{api}/trials/{trial.id}" for trial in trials),
        "/api/v1/renders",
        f"/api/v1/renders?job={job_id}&limit=2",
        *(f"/api/v1/renders?limit=2&after={trial.id}-0" for trial in trials),
        *(f"/api/v1/images/{sha256}.png" for sha256 in hashes),
        *(f"/thumbnails/64/{sha256}.webp" for sha256 in hashes),
    ]


async def after_every_write(
    settings: Settings, store: Store, job_id: str, story: Callable[[], None], patched: pytest.MonkeyPatch
) -> int:
    """Live through a story, and check after each of its writes; how many they were."""
    loop, write, writes = asyncio.get_running_loop(), Store._write, 0
    async with client_of(settings) as client:
        reader = Reader(client)

        async def look() -> None:
            reader.paths = await asyncio.to_thread(paths_of, store, job_id)
            await reader.check()

        @contextmanager
        def watched(self: Store) -> Iterator[Session]:
            nonlocal writes
            with write(self) as session:
                yield session
            if self is store:
                writes += 1
                asyncio.run_coroutine_threadsafe(look(), loop).result()

        patched.setattr(Store, "_write", watched)
        await asyncio.to_thread(story)
    return writes


def run(story: Callable[[], Awaitable[int]]) -> int:
    async def timed() -> int:
        return await story()

    return asyncio.run(asyncio.wait_for(timed(), 300))


def test_a_kept_answer_is_what_a_handler_answers_after_every_write(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = queue(store)

    def story() -> None:
        lease = leased(store, job_id)
        run_trial(store, settings, lease, TrialKind.SEARCH, 0)
        open_long = store.open_trial(lease, TrialKind.SEARCH, 90, weights_of(90))
        other = queue(store, output="other")
        run_trial(store, settings, leased(store, other), TrialKind.SEARCH, 0)
        store.fail_trial(lease, open_long.id, "a black image", 1.0, {})
        store.note(lease, "it is warm here")
        for number in range(1, 5):
            run_trial(store, settings, lease, TrialKind.SEARCH, number)
        store.end_search(lease, "that is enough")
        best = store.best_trial(lease.node_id)
        assert best is not None
        run_trial(store, settings, lease, TrialKind.HELDOUT_WINNER, best.number)
        node = store.node(lease.node_id)
        store.begin_rescore(node.id, ScorerSpec(scorer="sharpness"))
        lacking = store.unscored(node.id, "sharpness", after=0, limit=5)
        store.add_scores(job_id, "sharpness", {render.id: 0.5 for render in lacking})
        finish(store, settings, lease)
        store.set_priority(job_id, 3)
        collect(store, settings, CollectRequest(jobs=[job_id], images="best-1", dry_run=False))
        store.extend_node(job_id, node.name, 1)
        store.pause_job(job_id)
        store.resume_job(job_id)
        store.cancel_job(other)

    assert run(lambda: after_every_write(settings, store, job_id, story, monkeypatch)) > 35


def test_so_it_is_where_people_judge(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = queue(store, scorers=[ScorerSpec(scorer="human")])

    def story() -> None:
        lease = leased(store, job_id)
        trials = waiting_trials(store, lease, 0, 1, 2)
        store.await_votes(lease, 1, "people judge")
        name = store.node(lease.node_id).name
        vote = store.cast_vote(job_id, name, a_vote(trials[0], trials[1]))
        again = leased(store, job_id)
        assert store.count_votes(again, [vote.id], judgements({trials[0]: 1.0, trials[1]: 0.5}))

    assert run(lambda: after_every_write(settings, store, job_id, story, monkeypatch)) > 10


def test_an_answer_that_is_kept_needs_no_handler_and_knows_who_has_it(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = queue(store)
    run_trial(store, settings, leased(store, job_id), TrialKind.SEARCH, 0)
    trial = store.trials(store.nodes(job_id)[0].id)[0]
    paths = [
        "/api/v1/jobs",
        f"/api/v1/jobs/{job_id}",
        f"/api/v1/jobs/{job_id}/trials/{trial.id}",
        f"/api/v1/images/{store.renders(trial.id)[0].sha256}.png",
    ]

    async def story() -> int:
        async with client_of(settings) as client:
            first = [await client.get(path) for path in paths]
            assert [answer.status_code for answer in first] == [200] * 4
            with monkeypatch.context() as patched:
                if store.engine.dialect.name == "sqlite":  # PostgreSQL is asked whether anything happened
                    patched.setattr(Store, "_read", None)
                again = [await client.get(path) for path in paths]
            assert [answer.content for answer in again] == [answer.content for answer in first]
            assert [answer.headers for answer in again] == [answer.headers for answer in first]
            for path, answer in zip(paths, first, strict=True):
                etag = answer.headers["etag"]
                unchanged = await client.get(path, headers={"If-None-Match": etag})
                assert (unchanged.status_code, unchanged.content) == (304, b"")
                assert unchanged.headers["etag"] == etag
                assert "content-type" not in unchanged.headers
            metrics = (await client.get("/metrics")).text
            assert 'autombw_http_answers_total{method="GET",route="/api/v1/jobs",status="200"} 2.0' in metrics
        return 0

    run(story)


def test_what_is_kept_is_for_who_may_see_it(settings: Settings, store: Store) -> None:
    _, secret = store.create_token("anna", Role.VIEWER)

    async def story() -> int:
        async with client_of(settings) as client:
            mine = {"Authorization": f"Bearer {secret.text}"}
            for _ in range(2):
                assert (await client.get("/api/v1/jobs", headers=mine)).status_code == 200
            assert (await client.get("/api/v1/jobs")).status_code == 401
        return 0

    run(story)


def test_the_answers_that_nobody_asked_for_the_longest_make_room(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    job_of = Store.last_event_id

    def counted(self: Store, job_id: str) -> int:
        asked.append(job_id)
        return job_of(self, job_id)

    monkeypatch.setattr(Store, "last_event_id", counted)
    ids = [queue(store, output=f"out{number}") for number in range(4)]

    async def story() -> int:
        async with client_of(settings) as client:
            size = len((await client.get(f"/api/v1/jobs/{ids[0]}")).content)
            monkeypatch.setattr(kept, "MOST_BYTES", 3 * (size + kept.BESIDE) + 100)
            asked.clear()
            for job_id in (*ids[:3], ids[0], ids[3], ids[0], ids[1]):
                assert (await client.get(f"/api/v1/jobs/{job_id}")).status_code == 200
        return 0

    run(story)
    assert [job_id for job_id, _ in groupby(asked)] == [ids[1], ids[2], ids[3], ids[1]]


def test_one_that_makes_room_while_it_is_asked_for_is_given_all_the_same(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = queue(store)

    async def story() -> int:
        async with client_of(settings) as client:
            path = f"/api/v1/jobs/{job_id}"
            first = await client.get(path)
            arrive = News.arrive

            async def slowly(self: News) -> bool:
                monkeypatch.setattr(News, "arrive", arrive)
                # Whoever comes now makes room for its own answer.
                monkeypatch.setattr(kept, "MOST_BYTES", 0)
                assert (await client.get("/api/v1/jobs")).status_code == 200
                return await arrive(self)

            monkeypatch.setattr(News, "arrive", slowly)
            assert (await client.get(path)).content == first.content
            assert (await client.get(path)).content == first.content
        return 0

    run(story)


@dataclass
class Held:
    """Holds the first handler that has looked at a job, until told to go on. looks: how many did."""

    looks: int = 0
    begun: threading.Event = field(default_factory=threading.Event)
    may_go_on: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    held = Held()

    def slowly(store: Store, job_id: str) -> Known:
        known = recent_progress(store, job_id)
        held.looks += 1
        if held.looks == 1:
            held.begun.set()
            assert held.may_go_on.wait(30)
        return known

    monkeypatch.setattr(jobs, "recent_progress", slowly)
    return held


async def begun(held: Held, client: httpx.AsyncClient, path: str) -> asyncio.Task[httpx.Response]:
    """The first request of a path, once its handler is held."""
    first = asyncio.create_task(client.get(path))
    assert await asyncio.to_thread(held.begun.wait, 30)
    return first


def test_many_who_ask_for_the_same_at_once_cost_one_handler(
    settings: Settings, store: Store, held: Held
) -> None:
    path = f"/api/v1/jobs/{queue(store)}"

    async def story() -> int:
        async with client_of(settings) as client:
            asked = [await begun(held, client, path)]
            asked += [asyncio.create_task(client.get(path)) for _ in range(20)]
            await asyncio.sleep(0.2)
            held.may_go_on.set()
            answers = await asyncio.gather(*asked)
            assert [answer.status_code for answer in answers] == [200] * 21
            assert {answer.content for answer in answers} == {answers[0].content}
            assert held.looks == 1
        return 0

    run(story)


def test_who_waits_for_another_is_not_told_what_was_true_before_he_asked(
    settings: Settings, store: Store, held: Held
) -> None:
    job_id = queue(store)
    path = f"/api/v1/jobs/{job_id}"

    async def story() -> int:
        async with client_of(settings) as client:
            first = await begun(held, client, path)
            store.pause_job(job_id)
            second = asyncio.create_task(client.get(path))
            await asyncio.sleep(0.2)
            assert not second.done()
            held.may_go_on.set()
            assert (await second).json()["state"] == "paused"
            assert (await first).status_code == 200
        return 0

    run(story)


def test_who_waits_for_one_that_fails_gets_an_answer_of_his_own(
    settings: Settings, store: Store, held: Held
) -> None:
    path = f"/api/v1/jobs/{queue(store)}"

    async def story() -> int:
        async with client_of(settings) as client:
            first = await begun(held, client, path)
            others = [asyncio.create_task(client.get(path)) for _ in range(3)]
            await asyncio.sleep(0.2)
            first.cancel()
            held.may_go_on.set()
            assert [answer.status_code for answer in await asyncio.gather(*others)] == [200] * 3
        return 0

    run(story)
