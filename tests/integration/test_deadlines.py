"""No request waits for ever: what takes too long is answered for, and what it changes is still done."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import iscoroutinefunction
from pathlib import Path

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from service.api.app import create_app
from service.api.deadlines import WORK
from service.catalog import Catalog
from service.db.engine import sqlite_file
from service.db.states import JobState
from service.db.store import Store
from service.jobs import JobRequest
from service.planning import validate_job
from service.settings import Settings, load_settings
from tests.integration.conftest import wait_until
from tests.integration.services import Running, running
from tests.tiny_models import job

SECONDS = 0.4


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path, tiny_scorers: Path) -> Settings:
    return load_settings(
        data_dir=tmp_path_factory.mktemp("deadlines"),
        models_dir=tiny_models,
        scorers_dir=tiny_scorers,
        device="cpu",
        request_seconds=SECONDS,
    )


@pytest.fixture(scope="module")
def service(settings: Settings) -> Iterator[Running]:
    with running(settings, tokens=False) as found:
        yield found


@pytest.fixture(scope="module")
def job_id(service: Running, settings: Settings) -> str:
    request = JobRequest.model_validate(job())
    return service.store.create_job(validate_job(request, settings, Catalog(settings.models_dir))).id


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """The database as another writer that does not come to an end leaves it: nobody else can write."""
    file = sqlite_file(settings.database_url)
    assert file is not None
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def test_a_change_that_takes_too_long_is_answered_for_and_still_done(
    service: Running, settings: Settings, job_id: str
) -> None:
    with locked(settings):
        began = time.monotonic()
        answer = httpx.post(f"{service.url}/api/v1/jobs/{job_id}/pause", timeout=10)
        assert time.monotonic() - began < 10 * SECONDS
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) >= 1
        detail = answer.json()["detail"]
        assert f"POST /api/v1/jobs/{job_id}/pause was not answered within {SECONDS:g} s" in detail
        assert "what it began goes on" in detail
        assert "request_seconds" in detail
        assert service.store.job(job_id).state is JobState.QUEUED
    wait_until(lambda: service.store.job(job_id).state is JobState.PAUSED, "the pause", 30)


def test_the_key_of_a_late_request_finds_what_came_of_it(
    service: Running, settings: Settings, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    set_priority = Store.set_priority

    def slowly(store: Store, of: str, priority: int) -> None:
        go_on.wait(30)
        set_priority(store, of, priority)

    monkeypatch.setattr(Store, "set_priority", slowly)
    url, key = f"{service.url}/api/v1/jobs/{job_id}/priority", {"Idempotency-Key": "late"}
    assert httpx.post(url, json={"priority": 7}, headers=key, timeout=10).status_code == 503
    assert httpx.post(url, json={"priority": 7}, headers=key, timeout=10).status_code == 409
    go_on.set()
    again = wait_until(lambda: answered(url, key), "the answer that was kept", 30)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["priority"] == 7


def answered(url: str, key: dict[str, str]) -> httpx.Response | None:
    answer = httpx.post(url, json={"priority": 7}, headers=key, timeout=10)
    return answer if answer.status_code == 200 else None


def test_a_read_that_takes_too_long_is_cancelled(settings: Settings) -> None:
    app = create_app(settings)
    cancelled = threading.Event()

    async def hangs() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    app.add_api_route("/api/v1/hangs", hangs)
    asks(app, "/api/v1/hangs", 503, "GET /api/v1/hangs was not answered")
    assert cancelled.is_set()


def asks(app: object, path: str, status: int, words: str) -> None:
    """Ask an application that does not listen, in this thread."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path)

    answer = asyncio.run(ask())
    assert answer.status_code == status
    assert words in answer.text


def test_a_stream_lasts_for_as_long_as_it_is_followed(service: Running, job_id: str) -> None:
    with httpx.stream("GET", f"{service.url}/api/v1/jobs/{job_id}/events", timeout=10) as answer:
        lines = answer.iter_lines()
        assert next(lines)
        time.sleep(3 * SECONDS)
        service.store.set_priority(job_id, 3)
        assert any("job.priority" in line for line in lines if line.startswith("event:"))


def test_the_time_of_who_sends_slowly_counts_from_the_end_of_the_body(service: Running, job_id: str) -> None:
    def slow_body() -> Iterator[bytes]:
        for part in (b'{"prio', b"rity", b'": 4}'):
            time.sleep(0.8 * SECONDS)
            yield part

    headers = {"Content-Type": "application/json"}
    url = f"{service.url}/api/v1/jobs/{job_id}/priority"
    answer = httpx.post(url, content=slow_body(), headers=headers, timeout=10)
    assert answer.status_code == 200
    assert answer.json()["priority"] == 4


def test_a_submission_has_the_time_of_work(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    create = Store.create_job

    def slowly(*arguments: object) -> object:
        time.sleep(2 * SECONDS)
        return create(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "create_job", slowly)
    with running(settings, tokens=False) as service:
        answer = httpx.post(f"{service.url}/api/v1/jobs", json=job(output="patient"), timeout=30)
    assert answer.status_code == 201


def routes_of(service: Running) -> Iterator[tuple[str, str, object]]:
    """Method, a path and the handler of every route."""
    for route in iter_route_contexts(service.app.routes):
        for method in route.methods or () if route.path else ():
            yield method, re.sub(r"\{[^}]*\}", "x", str(route.path)), route.endpoint


def test_every_request_with_more_time_is_one_that_there_is(service: Running) -> None:
    there = list(routes_of(service))
    for method, pattern in WORK:
        assert any(method == of and re.fullmatch(pattern, path) for of, path, _ in there), (method, pattern)


def test_what_takes_long_has_threads_of_its_own(service: Running) -> None:
    for method, path, handler in routes_of(service):
        if any(method == of and re.fullmatch(pattern, path) for of, pattern in WORK):
            assert iscoroutinefunction(handler), f"{path}: its handler lacks @takes_long"
