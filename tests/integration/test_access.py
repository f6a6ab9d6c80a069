"""Who gets in: every route with tokens on, logins, forged requests, revocation, proxies, limits."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from nicegui import app as page_app
from starlette.routing import BaseRoute, Mount
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from service.access.guard import COOKIE
from service.access.policy import OPEN, SAFE, needed
from service.access.roles import Role
from service.api.app import create_app
from service.settings import Settings, load_settings
from tests.contract.store_contract import new_job
from tests.integration.services import Running, running
from tests.tiny_models import job

SOCKET = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"


@pytest.fixture(scope="module")
def guarded(tiny_settings: Callable[..., Settings]) -> Iterator[Running]:
    """A service with a token of each role."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AUTOMBW_ALLOWED_HOSTS", raising=False)
        with running(tiny_settings(request_rate=0), tokens=True) as service:
            yield service


def all_routes(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(method, path) of every route, also of applications that are mounted; parameters filled with x."""
    for route in iter_route_contexts(routes):
        inner = route.original_route
        path = prefix + re.sub(r"\{[^}]*\}", "x", route.path or "")
        if isinstance(inner, Mount):
            yield "GET", f"{path.rstrip('/')}/x"
            yield from all_routes(inner.routes, path.rstrip("/"))
        else:
            yield from ((method, path) for method in sorted(route.methods or {"GET"}))


@pytest.fixture(scope="module")
def routes(guarded: Running) -> list[tuple[str, str]]:
    found = sorted(set(all_routes(guarded.app.routes)) | set(all_routes(page_app.routes)))
    assert len(found) > 50, "the walk misses routes"
    assert ("GET", "/docs") in found
    assert ("GET", "/static-offline-docs/x") in found
    assert any(path.startswith("/_nicegui") for _, path in found)
    return found


def test_every_route_is_refused_without_a_token(guarded: Running, routes: list[tuple[str, str]]) -> None:
    let_in = []
    with httpx.Client(base_url=guarded.url) as client:
        for method, path in [*routes, ("GET", "/nothing"), ("POST", "/nothing"), ("GET", "/api/v1/nothing")]:
            response = client.request(method, path)
            if path not in OPEN and response.status_code != 401:
                let_in.append((method, path, response.status_code))
    assert let_in == []


def test_every_route_that_writes_is_refused_with_too_small_a_role(
    guarded: Running, routes: list[tuple[str, str]]
) -> None:
    tried = 0
    with httpx.Client(base_url=guarded.url) as client:
        for method, path in routes:
            role = needed(method, path)
            for smaller in [each for each in Role if role and not each.allows(role)]:
                response = client.request(method, path, headers=guarded.bearer(smaller))
                assert response.status_code == 403, (method, path, smaller)
                assert role is not None
                assert f"needs the role {role.value}" in response.json()["detail"]
                tried += 1
            if (
                method not in SAFE
                and path.startswith("/api/v1/jobs")
                and not path.endswith(("/bracket", "/plan", "/retally"))
            ):
                assert role is not Role.VIEWER, f"{method} {path} changes a job"
    assert tried > 20


def test_a_viewer_reads_and_a_submitter_submits(guarded: Running) -> None:
    with httpx.Client(base_url=guarded.url) as client:
        viewer, submitter = guarded.bearer(Role.VIEWER), guarded.bearer(Role.SUBMITTER)
        assert client.get("/api/v1/jobs", headers=viewer).status_code == 200
        made = client.post("/api/v1/jobs", json=job(output="by-role"), headers=submitter)
        assert made.status_code == 201
        assert client.get("/api/v1/whoami", headers=viewer).json()["role"] == "viewer"
        seen = client.get("/healthz").json()
        assert seen["status"] == "ok"
        assert seen["version"] is None, "who shows no token learns no version"
        assert client.get("/healthz", headers=viewer).json()["version"]


@pytest.mark.parametrize("token", ["x", "ambw_000000000000_" + "A" * 43, "ambw_" + "é" * 5])
def test_a_wrong_token_is_refused_on_open_routes_too(guarded: Running, token: str) -> None:
    header = {b"Authorization": f"Bearer {token}".encode()}
    response = httpx.get(f"{guarded.url}/healthz", headers=header)
    assert response.status_code == 401
    assert "autombw token create" in response.json()["detail"]


def test_what_is_stored_is_not_the_token(guarded: Running) -> None:
    database = Path(guarded.store.engine.url.database or "")
    files = b"".join(file.read_bytes() for file in database.parent.glob("autombw.sqlite3*"))
    for token in guarded.tokens.values():
        assert token.split("_", 2)[1].encode() in files, "its id is there"
        assert token.split("_", 2)[2].encode() not in files


@contextmanager
def log_in(guarded: Running, role: Role) -> Iterator[httpx.Client]:
    """A browser that is logged in."""
    with httpx.Client(base_url=guarded.url, headers={"Origin": guarded.url}) as client:
        answer = client.post("/login", data={"token": guarded.tokens[role], "next": "/api/v1/jobs?limit=5"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/api/v1/jobs?limit=5")
        yield client


def test_a_browser_is_sent_to_the_login_and_back(guarded: Running) -> None:
    sent = httpx.get(f"{guarded.url}/gallery?sort=best", headers={"Accept": "text/html,*/*"})
    assert sent.status_code == 303
    assert sent.headers["location"] == "/login?next=%2Fgallery%3Fsort%3Dbest"
    page = httpx.get(f"{guarded.url}{sent.headers['location']}")
    assert 'value="/gallery?sort=best"' in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    with log_in(guarded, Role.VIEWER) as client:
        cookie = next(iter(client.cookies.jar))
        assert cookie.name == COOKIE
        assert cookie.has_nonstandard_attr("HttpOnly")
        assert str(cookie.get_nonstandard_attr("SameSite")).lower() == "lax"
        assert client.get("/").status_code == 200, "the page itself"
        assert client.get("/docs").status_code == 200
        assert client.get("/api/v1/whoami").json()["via"] == "cookie"
        assert client.post("/logout").status_code == 303
        client.cookies.set(COOKIE, str(cookie.value))
        assert client.get("/api/v1/whoami").status_code == 401, "the cookie of before is worth nothing"


@pytest.mark.parametrize(
    "elsewhere", ["//evil.example", "https://evil.example", "/\\evil.example", "/\n/x", ""]
)
def test_the_login_leads_to_no_other_site(guarded: Running, elsewhere: str) -> None:
    answer = httpx.post(
        f"{guarded.url}/login", data={"token": guarded.tokens[Role.VIEWER], "next": elsewhere}
    )
    assert answer.headers["location"] == "/"
    hidden = httpx.get(f"{guarded.url}/login", params={"next": '"><script>alert(1)</script>'}).text
    assert "<script>" not in hidden


def test_a_cookie_changes_nothing_on_behalf_of_another_site(guarded: Running) -> None:
    admin = guarded.bearer(Role.ADMIN)
    made = httpx.post(f"{guarded.url}/api/v1/jobs", json=job(output="forged"), headers=admin)
    job_id = made.json()["id"]
    path = f"/api/v1/jobs/{job_id}/priority"
    with log_in(guarded, Role.ADMIN) as client:
        for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}):
            assert client.post(path, json={"priority": 9}, headers=headers).status_code == 403
        del client.headers["Origin"]
        assert client.post(path, json={"priority": 9}).status_code == 403, "a browser says where from"
        for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200)):
            answer = client.post(path, json={"priority": 7}, headers={"Sec-Fetch-Site": site})
            assert answer.status_code == status, site
    assert guarded.store.job(job_id).priority == 7


def test_a_websocket_needs_a_login_from_the_same_site(guarded: Running) -> None:
    url = guarded.url.replace("http", "ws") + SOCKET
    with pytest.raises(InvalidStatus) as refused, connect(url):
        pass
    assert refused.value.response.status_code == 403
    with log_in(guarded, Role.VIEWER) as client:
        cookie = {"Cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
        for origin in (Origin("https://evil.example"), None):
            with (
                pytest.raises(InvalidStatus) as refused,
                connect(url, additional_headers=cookie, origin=None if origin is None else Origin(origin)),
            ):
                pass
            assert refused.value.response.status_code == 403
        with connect(url, additional_headers=cookie, origin=Origin(guarded.url)) as socket:
            assert json.loads(str(socket.recv(timeout=10))[1:])["sid"], "the greeting of engine.io"


def test_a_revoked_token_ends_its_websocket_and_its_stream(guarded: Running) -> None:
    made, secret = guarded.store.create_token("leaver", Role.VIEWER)
    bearer = {"Authorization": f"Bearer {secret.text}"}
    job_id = guarded.store.create_job(new_job("watched")).id
    url = guarded.url.replace("http", "ws") + SOCKET
    events = f"{guarded.url}/api/v1/jobs/{job_id}/events"
    with (
        connect(url, additional_headers=bearer) as socket,
        httpx.stream("GET", events, headers=bearer, timeout=20) as stream,
    ):
        socket.recv(timeout=10)
        lines = stream.iter_lines()
        assert any("job.created" in line for line in lines)
        guarded.store.revoke_token(made.id)
        time.sleep(1.1)
        guarded.store.set_priority(job_id, 42)
        assert not any("42" in line for line in lines), "the stream ended before it told more"
        socket.send("3")
        with pytest.raises(ConnectionClosed) as closed:
            all(socket.recv(timeout=10) for _ in range(100))
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
    assert httpx.get(f"{guarded.url}/api/v1/jobs", headers=bearer).status_code == 401


def test_tokens_are_made_listed_and_revoked_over_http_and_all_of_it_is_in_the_audit(guarded: Running) -> None:
    admin = guarded.bearer(Role.ADMIN)
    with httpx.Client(base_url=guarded.url, headers=admin) as client:
        made = client.post("/api/v1/tokens", json={"name": "visitor", "role": "viewer", "expires_days": 1})
        assert made.status_code == 201
        bearer = {"Authorization": f"Bearer {made.json()['token']}"}
        assert client.get("/api/v1/jobs", headers=bearer).status_code == 200
        assert client.post("/api/v1/tokens", json={"name": "visitor", "role": "admin"}).status_code == 409
        assert client.post("/api/v1/gc", json={}, headers=bearer).status_code == 403
        assert "visitor" in {token["name"] for token in client.get("/api/v1/tokens").json()}
        assert client.delete("/api/v1/tokens/visitor").status_code == 200
        assert client.delete("/api/v1/tokens/visitor").status_code == 409
        told = [(e["actor"], e["action"], e["status"]) for e in client.get("/api/v1/audit").json()]
        page = client.get("/api/v1/audit?limit=2")
        following = client.get("/api/v1/audit" + page.links["next"]["url"])
        assert following.json()[0]["id"] < page.json()[-1]["id"]
    assert told[:4] == [
        ("admin", "DELETE /api/v1/tokens/visitor", 409),
        ("admin", "DELETE /api/v1/tokens/visitor", 200),
        ("visitor", "POST /api/v1/gc", 403),
        ("admin", "POST /api/v1/tokens", 409),
    ]


def test_an_expired_token_and_session_are_refused(guarded: Running) -> None:
    _, secret = guarded.store.create_token("short", Role.VIEWER, time.time() - 1)
    answer = httpx.get(f"{guarded.url}/api/v1/jobs", headers={"Authorization": f"Bearer {secret.text}"})
    assert answer.status_code == 401
    viewer = next(token for token in guarded.store.tokens() if token.name == "viewer")
    over = guarded.store.open_session(viewer.id, -1)
    assert httpx.get(f"{guarded.url}/docs", cookies={COOKIE: over.text}).status_code == 401


@pytest.fixture
def client(installation: Path) -> Iterator[TestClient]:
    """A service on loopback for which no token was ever made."""
    with TestClient(create_app(load_settings(installation)), base_url="http://localhost") as client:
        yield client


def test_loopback_needs_no_token_until_one_was_made(client: TestClient) -> None:
    assert client.get("/api/v1/whoami").json() == {"name": "local", "role": "admin", "via": "local"}
    made = client.post("/api/v1/tokens", json={"name": "first", "role": "admin"}).json()
    time.sleep(1.1)
    assert client.get("/api/v1/jobs").status_code == 401
    bearer = {"Authorization": f"Bearer {made['token']}"}
    assert client.delete(f"/api/v1/tokens/{made['made']['id']}", headers=bearer).status_code == 200
    time.sleep(1.1)
    assert client.get("/api/v1/jobs").status_code == 401, "revoking the last one opens nothing"


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Host": "evil.example"}, "not known as evil.example"),
        ({"Host": "127.0.0.1.evil.example:8188"}, "not known as"),
        ({"Origin": "https://evil.example"}, "another site's page"),
        ({"Sec-Fetch-Site": "cross-site"}, "another site's page"),
        ({"X-Forwarded-For": "203.0.113.9"}, "a proxy brings requests of a network"),
        ({"Forwarded": "for=203.0.113.9"}, "a proxy brings requests of a network"),
    ],
)
def test_loopback_without_tokens_serves_nobody_from_elsewhere(
    client: TestClient, headers: dict[str, str], words: str
) -> None:
    answer = client.post("/api/v1/gc", json={}, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    assert words in answer.json()["detail"]


@pytest.mark.parametrize("host", ["localhost:8188", "127.0.0.1", "127.8.8.8:1", "[::1]:8188", "testserver"])
def test_loopback_is_known_by_its_names(client: TestClient, host: str) -> None:
    assert client.get("/api/v1/jobs", headers={"Host": host}).status_code == 200


def behind_a_proxy(installation: Path, trusted: str) -> TestClient:
    settings = load_settings(installation, trusted_proxies=trusted, auth="always", allowed_hosts=())
    return TestClient(
        create_app(settings),
        base_url="http://merge.example",
        client=("10.0.0.7", 1234),
        follow_redirects=False,
    )


def test_a_trusted_proxy_says_who_asks_how_and_below_which_path(installation: Path) -> None:
    told = {
        "X-Forwarded-For": "198.51.100.1, 203.0.113.9, 10.0.0.8",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "merge.example",
        "X-Forwarded-Prefix": "/merge",
        "Origin": "https://merge.example",
    }
    with behind_a_proxy(installation, "10.0.0.0/8") as client:
        store = client.app.state.context.store  # type: ignore[attr-defined]
        token = store.create_token("anna", Role.ADMIN)[1].text
        answer = client.post("/login", data={"token": token, "next": "/jobs"}, headers=told)
        assert answer.headers["location"] == "/merge/jobs"
        assert re.search(r"Path=/merge; .*Secure", answer.headers["set-cookie"])
        entry = store.audit_entries()[0]
        assert (entry.actor, entry.action, entry.address) == ("anna", "login", "203.0.113.9")
        sent = client.get("/x", headers=told | {"Accept": "text/html"})
        assert sent.headers["location"] == "/merge/login?next=%2Fx"


def test_nobody_else_is_believed(installation: Path) -> None:
    told = {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Prefix": "/evil"}
    with behind_a_proxy(installation, "192.0.2.1") as client:
        store = client.app.state.context.store  # type: ignore[attr-defined]
        token = store.create_token("anna", Role.ADMIN)[1].text
        answer = client.post("/login", data={"token": token}, headers=told)
        assert answer.headers["location"] == "/"
        assert "Secure" not in answer.headers["set-cookie"]
        assert store.audit_entries()[0].address == "10.0.0.7"


def test_guessing_is_slowed_down(installation: Path) -> None:
    with behind_a_proxy(installation, "10.0.0.7") as client:
        anna = {"X-Forwarded-For": "203.0.113.9"}
        token = client.app.state.context.store.create_token("anna", Role.VIEWER)[1].text  # type: ignore[attr-defined]
        wrong = [client.post("/login", data={"token": "x"}, headers=anna).status_code for _ in range(12)]
        assert wrong == [401] * 10 + [429] * 2
        bearer = {"Authorization": f"Bearer {token}"}
        late = client.get("/api/v1/jobs", headers=anna | bearer)
        assert late.status_code == 429, "no more is listened to from there, right or wrong"
        assert 1 <= int(late.headers["Retry-After"]) <= 60
        other = client.get("/api/v1/jobs", headers={"X-Forwarded-For": "203.0.113.10"} | bearer)
        assert other.status_code == 200


def test_a_token_has_its_share_of_requests_and_of_the_queue(installation: Path) -> None:
    settings = load_settings(installation, request_rate=0.5, queue_limit=1)
    with TestClient(create_app(settings)) as client:
        store = client.app.state.context.store  # type: ignore[attr-defined]
        anna, bert = (
            {"Authorization": f"Bearer {store.create_token(name, Role.SUBMITTER)[1].text}"}
            for name in ("anna", "bert")
        )
        assert client.post("/api/v1/jobs", json=job(output="one"), headers=anna).status_code == 201
        full = client.post("/api/v1/jobs", json=job(output="two"), headers=anna)
        assert (full.status_code, full.headers["Retry-After"]) == (429, "60")
        assert "as many as it may" in full.json()["detail"]
        assert client.post("/api/v1/jobs", json=job(output="two"), headers=bert).status_code == 201
        answers = [client.get("/api/v1/whoami", headers=anna) for _ in range(6)]
        assert [a.status_code for a in answers].count(429) >= 2, "5 in 10 s, and two were used"
        assert answers[0].headers["RateLimit-Policy"] == '"token";q=5;w=10'
        assert answers[-1].headers["Retry-After"] in ("1", "2")
        assert client.get("/api/v1/whoami", headers=bert).status_code == 200
