"""The Python client against a real service: sync and async, pages, streams, errors, requests sent again."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.access.roles import Role
from service.client import (
    AsyncClient,
    Changed,
    Client,
    Conflicting,
    Missing,
    NoService,
    NotAllowed,
    WrongInput,
)
from service.settings import Settings
from service.worker import Worker
from tests.at_once import in_threads
from tests.integration.services import Running, running
from tests.tiny_models import job


@pytest.fixture(scope="module")
def service(tiny_settings: Callable[..., Settings]) -> Iterator[Running]:
    """A service with tokens; nobody works on its jobs but the tests."""
    with running(tiny_settings(request_rate=0), tokens=True) as service:
        yield service


@pytest.fixture(scope="module")
def done(service: Running) -> str:
    """The id of a job that is done."""
    settings: Settings = service.app.state.context.settings
    with Client(service.url, service.tokens[Role.SUBMITTER]) as client:
        job_id = client.submit(job(output="done")).id
    Worker(settings, service.store).run_job(job_id)
    return job_id


@pytest.fixture
def client(service: Running) -> Iterator[Client]:
    with Client(service.url, service.tokens[Role.ADMIN]) as client:
        yield client


def test_a_job_is_read_with_all_that_it_made(client: Client, done: str, tmp_path: Path) -> None:
    progress = client.job(done)
    assert progress.state == "done"
    made = progress.nodes[0].checkpoint
    assert made is not None
    file = client.download(done, tmp_path / "merged.safetensors")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == made.sha256
    assert [path.name for path in tmp_path.iterdir()] == ["merged.safetensors"]
    assert client.recipe(done)["weights"] == client.best(done).weights
    best = client.best(done)
    assert client.trial(done, best.id) == best
    image = client.image(best.renders[0].image.rsplit("/", 1)[1].removesuffix(".png"))
    assert image.startswith(b"\x89PNG")
    assert client.health().status == "ok"
    assert {model.name for model in client.models()} == {"left", "right"}
    assert client.model("left").architecture == "emoji"
    assert client.retally(done, tally="median").nodes


def test_lists_come_page_by_page(client: Client, done: str) -> None:
    for number in range(3):
        client.cancel(client.submit(job(output=f"listed-{number}")).id)
    ids = [each.id for each in client.jobs(page=2)]
    assert ids == [each.id for each in client.jobs()]
    assert len(ids) == len(set(ids)) >= 4
    assert [trial.number for trial in client.trials(done, page=1)] == [0, 1, 2, 3]
    renders = list(client.renders(done, page=5))
    assert renders == list(client.renders(done))
    assert len(renders) == 4 * 2 + 4
    assert all(render.scores for render in renders)
    told = list(client.log(done, page=3))
    assert told == list(client.events(done)), "the log is what was streamed"
    assert [event.id for event in told] == sorted(event.id for event in told)


def test_a_job_that_changed_is_not_changed_blindly(client: Client) -> None:
    made = client.submit(job(output="watched"))
    seen = client.etag(made.id)
    assert client.set_priority(made.id, 3, if_match=seen).priority == 3
    with pytest.raises(Changed, match="has changed since it was read"):
        client.cancel(made.id, if_match=seen)
    assert client.job(made.id).state == "queued"
    assert client.cancel(made.id, if_match=client.etag(made.id)).state == "cancelled"


def test_errors_carry_the_services_words(client: Client, service: Running, done: str) -> None:
    with pytest.raises(Missing, match="there is no job 'nope'"):
        client.job("nope")
    with pytest.raises(Missing):
        client.job("../tokens")
    with pytest.raises(Conflicting, match="nothing left to cancel") as conflict:
        client.cancel(done)
    assert conflict.value.status == 409
    with pytest.raises(WrongInput) as wrong:
        client.submit({"name": "x", "trails": 1})
    assert {"where": "trails", "what": "Extra inputs are not permitted (got 1)"} in wrong.value.errors
    with (
        Client(service.url, service.tokens[Role.VIEWER]) as viewer,
        pytest.raises(NotAllowed, match="submitter"),
    ):
        viewer.pause(done)
    with Client(service.url) as nobody, pytest.raises(NotAllowed, match="show a token"):
        next(nobody.jobs())
    with Client("http://127.0.0.1:1", retries=0) as lost, pytest.raises(NoService, match="autombw serve"):
        lost.health()
    with pytest.raises(NoService, match="is not a URL"):
        Client("ftp://x")


class Losing(httpx.HTTPTransport):
    """A network that loses the answers to the first requests: the service has done what was asked."""

    def __init__(self, lost: int) -> None:
        super().__init__()
        self.lost, self.sent = lost, 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.sent += 1
        response = super().handle_request(request)
        if self.sent <= self.lost:
            response.read()
            raise httpx.ReadError("the connection was reset", request=request)
        return response


def test_a_submission_whose_answer_is_lost_is_not_made_twice(service: Running, client: Client) -> None:
    before = len(list(client.jobs()))
    losing = Losing(2)
    with Client(service.url, service.tokens[Role.ADMIN], transport=losing) as unlucky:
        made = unlucky.submit(job(output="once"))
    assert losing.sent == 3
    assert made.nodes[-1].output == "once"
    assert len(list(client.jobs())) == before + 1
    client.cancel(made.id)


def test_a_service_that_is_busy_is_asked_again(client: Client) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        problem = {"title": "Database not available", "detail": "try again"}
        if len(asked) < 3:
            return httpx.Response(503, json=problem, headers={"Retry-After": "0"})
        return httpx.Response(200, json={"status": "ok"})

    with Client("http://busy", transport=httpx.MockTransport(answer)) as busy:
        assert busy.health().status == "ok"
    assert len(asked) == 3


def test_a_stream_that_breaks_off_is_gone_on_with(client: Client, service: Running, done: str) -> None:
    whole = [event.id for event in client.events(done)]
    broken = 0

    class Breaking(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal broken
            response = super().handle_request(request)
            if request.url.path.endswith("/events") and broken < 3:
                broken += 1
                return httpx.Response(200, headers=response.headers, stream=_Cut(response.stream))
            return response

    with Client(service.url, service.tokens[Role.VIEWER], transport=Breaking()) as unlucky:
        assert [event.id for event in unlucky.events(done)] == whole
    assert broken == 3


class _Cut(httpx.SyncByteStream):
    """A part of a stream, cut in the middle of an event."""

    def __init__(self, whole: Any) -> None:
        self._whole = whole

    def __iter__(self) -> Iterator[bytes]:
        text = b"".join(self._whole)
        yield text[: len(text) // 3]
        raise httpx.ReadError("the connection was reset")


def test_the_async_client_does_the_same(service: Running, done: str, tmp_path: Path) -> None:
    async def use() -> None:
        async with AsyncClient(service.url, service.tokens[Role.ADMIN]) as client:
            assert (await client.job(done)).state == "done"
            assert [trial.number async for trial in client.trials(done, page=1)] == [0, 1, 2, 3]
            assert "checkpoint.written" in [event.kind async for event in client.events(done)]
            file = await client.download(done, tmp_path / "merged.safetensors")
            assert file.stat().st_size > 0
            with pytest.raises(Missing):
                await client.job("nope")
            etag = await client.etag(done)
            assert (await client.set_priority(done, 5, if_match=etag)).priority == 5
            made = await client.make_token("async", Role.VIEWER)
            await client.revoke_token(made.made.id)
            found = [entry.action async for entry in client.audit(page=1)]
            assert found[0] == f"DELETE /api/v1/tokens/{made.made.id}"

    asyncio.run(use())


def test_the_same_key_means_the_same_request(service: Running) -> None:
    def post(key: str, body: dict[str, object], path: str = "/api/v1/jobs") -> httpx.Response:
        headers = service.bearer(Role.ADMIN) | {"Idempotency-Key": key}
        return httpx.post(f"{service.url}{path}", json=body, headers=headers)

    first, again = post("k1", job(output="keyed")), post("k1", job(output="keyed"))
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert again.headers["Location"] == first.headers["Location"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    other = post("k1", job(output="other"))
    assert (other.status_code, other.json()["title"]) == (422, "Key was used")
    taken = post("k2", job(output="keyed"))
    assert taken.status_code == 409
    assert post("k2", job(output="keyed")).headers["Idempotency-Replayed"] == "true", "a refusal is kept too"
    assert post("\N{SNOWMAN}".encode(), job()).status_code == 400  # type: ignore[arg-type]
    service.store.cancel_job(first.json()["id"])


def test_the_same_key_at_the_same_time_is_worked_on_once(service: Running) -> None:
    headers = service.bearer(Role.ADMIN) | {"Idempotency-Key": "at-once"}

    def submit() -> httpx.Response:
        body = job(output="at-once")
        return httpx.post(f"{service.url}/api/v1/jobs", json=body, headers=headers, timeout=60)

    answers = in_threads(submit, [()] * 8)
    made = [answer for answer in answers if answer.status_code == 201]
    assert made
    assert {answer.json()["id"] for answer in made} == {made[0].json()["id"]}
    late = [answer for answer in answers if answer.status_code == 409]
    assert len(made) + len(late) == 8
    assert all(answer.json()["title"] == "Still worked on" for answer in late)
