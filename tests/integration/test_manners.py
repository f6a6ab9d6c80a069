"""How the API answers what is wrong, too much, too slow, or known already."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from service.api import serving
from service.api.app import create_app
from service.api.bodies import JSON_DEPTH, depth
from service.settings import Settings, load_settings
from tests.integration.services import running
from tests.tiny_models import job

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def client(tiny_settings: Callable[..., Settings]) -> Iterator[TestClient]:
    settings = tiny_settings(max_body_mb=0.1, allowed_hosts="testserver")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", "/api/v1/nothing", b"", 404),
        ("GET", "/api/v1/jobs/nope", b"", 404),
        ("GET", "/api/v1/models/nope", b"", 404),
        ("GET", "/api/v1/images/nope.png", b"", 404),
        ("GET", "/static-offline-docs/nope.js", b"", 404),
        ("PUT", "/api/v1/jobs", b"{}", 405),
        ("POST", "/nothing", b"{}", 404),
        ("POST", "/api/v1/jobs", b"{", 422),
        ("POST", "/api/v1/jobs", b"\xff\xfe", 422),
        ("POST", "/api/v1/jobs", b"x" * 100_001, 413),
        ("POST", "/api/v1/jobs", b"[" * 50_000, 422),
        ("POST", "/api/v1/jobs", b'{"a":' * (JSON_DEPTH + 1) + b"1" + b"}" * (JSON_DEPTH + 1), 422),
        ("GET", "/api/v1/jobs?limit=0", b"", 422),
        ("GET", "/api/v1/jobs/x/trials?after=99999999999999999999", b"", 422),
        ("GET", "/api/v1/jobs?after=nope", b"", 404),
    ],
)
def test_every_error_is_a_problem(
    client: TestClient, method: str, path: str, content: bytes, status: int
) -> None:
    answer = client.request(method, path, content=content, headers=JSON)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert problem["status"] == status
    assert problem["detail"]
    assert problem["title"]


def test_what_nobody_expected_is_a_problem_without_its_secrets(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("/home/anna/secret")

    monkeypatch.setattr(client.app.state.context.store, "jobs", fail)  # type: ignore[attr-defined]
    answer = client.get("/api/v1/jobs")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "secret" not in answer.text


def test_a_path_tells_all_its_methods(client: TestClient) -> None:
    assert client.put("/api/v1/jobs").headers["Allow"] == "GET, POST"


def test_a_body_that_declares_no_length_is_counted(client: TestClient) -> None:
    answer = client.post("/api/v1/jobs", content=(b"x" * 1000 for _ in range(200)), headers=JSON)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("text", "deep"),
    [("1", 0), ("[]", 1), ('{"a":[{}]}', 3), ('"[[["', 0), ('["\\"[[", [1]]', 2), ("[],[],[]", 1)],
)
def test_depth_counts_what_is_open_and_no_text(text: str, deep: int) -> None:
    assert depth(text.encode()) == deep


def test_a_text_full_of_quotes_is_counted_at_once() -> None:
    start = time.perf_counter()
    depth(b'"' + b'\\"' * 1_000_000)
    depth(b'["' + b"a" * 2_000_000)
    assert time.perf_counter() - start < 5.0


@pytest.mark.parametrize("path", ["/api/v1/models", "/api/v1/models/left", "/api/v1/jobs", "/openapi.json"])
def test_what_is_known_is_not_sent_again(client: TestClient, path: str) -> None:
    first = client.get(path)
    tag = first.headers["ETag"]
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        again = client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    assert client.get(path, headers={"If-None-Match": '"other"'}).content == first.content


def test_the_etag_of_a_job_changes_with_every_event_of_it(client: TestClient) -> None:
    made = client.post("/api/v1/jobs", json=job(output="tagged")).json()
    path = f"/api/v1/jobs/{made['id']}"
    seen = {client.get(path).headers["ETag"]}
    for action, body in (("priority", {"priority": 3}), ("pause", None), ("resume", None), ("cancel", None)):
        tag = client.get(path).headers["ETag"]
        assert client.get(path, headers={"If-None-Match": tag}).status_code == 304
        stale = client.post(f"{path}/{action}", json=body, headers={"If-Match": '"1.0"'})
        assert stale.status_code == 412
        assert client.post(f"{path}/{action}", json=body, headers={"If-Match": tag}).status_code == 200
        seen.add(client.get(path).headers["ETag"])
    assert len(seen) == 5


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_documentation_comes_from_this_host_alone(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200
    links = [part.split('"')[0] for mark in ('src="', 'href="') for part in page.text.split(mark)[1:]]
    assert links
    for link in links:
        assert link.startswith("/static-offline-docs/"), link
        assert len(client.get(link).content) > 1000


def test_the_description_tells_errors_tokens_and_examples(client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    assert told["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert told["components"]["schemas"]["JobRequest"]["examples"]
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            errors = {s: a for s, a in operation["responses"].items() if s == "default" or s[0] in "45"}
            assert "default" in errors, (method, path)
            for answer in errors.values() if path != "/readyz" else ():
                assert set(answer["content"]) == {"application/problem+json"}, (method, path)
            named = {parameter["name"] for parameter in operation.get("parameters", [])}
            assert ("Idempotency-Key" in named) is (method == "post")


def test_a_client_that_is_slow_with_its_request_is_hung_up_on(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.5)
    with running(load_settings(installation), tokens=False) as service:
        address = ("127.0.0.1", httpx.URL(service.url).port or 0)
        for said in (b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "):
            with socket.create_connection(address, timeout=10) as slow:
                slow.sendall(said)
                assert slow.recv(1) == b"", "closed"
        with socket.create_connection(address, timeout=10) as endless:
            endless.sendall(b"GET /healthz HTTP/1.1\r\n")
            with pytest.raises(OSError, match=r"reset|[Bb]roken"):
                all(_sent(endless, b"X-%d: %s\r\n" % (number, b"x" * 1000)) for number in range(2000))
        with httpx.Client(base_url=service.url) as kept:
            assert kept.get("/healthz").status_code == 200
            time.sleep(0.7)
            assert kept.get("/healthz").status_code == 200, "a connection may rest between requests"


def _sent(to: socket.socket, line: bytes) -> bool:
    to.sendall(line)
    time.sleep(0.0005)
    return True
