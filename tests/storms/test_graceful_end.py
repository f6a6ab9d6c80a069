"""`serve` is told to stop while streams, sockets and requests are open, and while its workers render."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from service.api.serving import GRACE_SECONDS, LEAVE_SECONDS
from service.db.states import NodeState
from tests.storms.conftest import MakeSite
from tests.storms.fleet import Member
from tests.storms.site import Site
from tests.storms.test_told_to_stop import LONG

pytestmark = pytest.mark.slow

SERVICE_RESTARTS = 1012
"""The close code that tells a browser to connect again (registry of RFC 6455)."""
FRESH_PROCESS_SECONDS = 600.0


@dataclass
class Client:
    """Something that a client does until it ends, in a thread; its outcome is what it came to."""

    does: Callable[[], Any]
    outcome: Any = None
    ended_at: float = 0.0
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.outcome = self.does()
        except Exception as error:
            self.outcome = error
        self.ended_at = time.monotonic()

    def join(self) -> Any:
        """What it came to."""
        self._thread.join(30.0)
        assert not self._thread.is_alive()
        return self.outcome


def events_to_the_end(url: str) -> list[str]:
    """The ids of all events of a stream that ends as HTTP says."""
    with httpx.stream("GET", url, timeout=60.0) as answer:
        return [line for line in answer.iter_lines() if line.startswith("id:")]


def close_code(url: str) -> int | None:
    """The code that the page's socket is closed with."""
    with connect(f"{url.replace('http', 'ws')}/_nicegui_ws/socket.io/?EIO=4&transport=websocket") as socket:
        try:
            while True:
                socket.recv(timeout=60.0)
        except ConnectionClosed as closed:
            return None if closed.rcvd is None else closed.rcvd.code


def endless_body() -> Iterator[bytes]:
    """A job that never comes to its end."""
    yield b'{"name": "'
    while True:
        yield b"x"
        time.sleep(0.1)


def tell_to_stop(api: Member, patience: float) -> float:
    """Send SIGTERM; the seconds until it ended as it should."""
    told = time.monotonic()
    api.kill(signal.SIGTERM)
    assert api.wait(patience) == 0
    assert "Traceback" not in api.says(), api.says()
    return time.monotonic() - told


def test_streams_and_sockets_are_closed_and_a_request_is_answered(site: Site) -> None:
    job_id = site.queue()
    api, url = site.fleet.start_api(), site.fleet.server
    stream = Client(lambda: events_to_the_end(f"{url}/api/v1/jobs/{job_id}/events"))
    socket = Client(lambda: close_code(url))
    post = Client(lambda: httpx.post(f"{url}/api/v1/jobs", content=endless_body(), timeout=60.0))
    time.sleep(1.0)

    told = time.monotonic()
    assert tell_to_stop(api, 30.0) < GRACE_SECONDS + 2.0
    assert stream.join(), "the stream ended before its first event"
    assert stream.ended_at - told < 1.5, "a stream does not wait for the requests' time to be over"
    assert socket.join() == SERVICE_RESTARTS
    # Half of a request is answered; a client that still writes may see the connection close first.
    answer = post.join()
    assert isinstance(answer, httpx.TransportError) or answer.status_code == 503, answer


def test_a_request_that_waits_for_the_database_holds_nothing_up(site: Site) -> None:
    """Its thread can't be interrupted: the process leaves without it, and the request is not half done."""
    job_id = site.queue()
    api, url = site.fleet.start_api(), site.fleet.server
    with closing(sqlite3.connect(site.settings.data_dir / "autombw.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        pause = Client(lambda: httpx.post(f"{url}/api/v1/jobs/{job_id}/pause", timeout=60.0))
        time.sleep(1.0)
        assert GRACE_SECONDS < tell_to_stop(api, 60.0) < LEAVE_SECONDS + 3.0
        answer = pause.join()
    assert answer.status_code == 503
    assert "stopped before this was answered" in answer.json()["detail"]
    assert site.store.job(job_id).state == "queued"


@pytest.mark.parametrize("command", ["serve --workers 2", "worker --count 2"])
def test_workers_hand_their_nodes_back_to_others(command: str, make_site: MakeSite) -> None:
    """The leases would last ten minutes. Workers that still load their models may have to be killed."""
    site = make_site(lease_seconds=600)
    jobs = [site.queue(probes=[LONG], heldout=None, name=name, output=name) for name in ("one", "two")]
    port = ["--port", str(site.fleet.port)] if command.startswith("serve") else []
    told = site.fleet.start(*command.split(), *port)
    site.wait(lambda: all(site.node(each).lease_owner for each in jobs), "two workers", FRESH_PROCESS_SECONDS)
    owners = {site.node(each).lease_owner for each in jobs}
    assert len(owners) == 2
    assert tell_to_stop(told, 60.0) < LEAVE_SECONDS
    assert [(site.node(each).state, site.node(each).lease_owner) for each in jobs] == [
        (NodeState.READY, None)
    ] * 2
    assert not site.store.workers(), "who ended is off the list"

    site.fleet.start_worker()
    taken = site.wait(lambda: site.node(jobs[0]).lease_owner, "another worker to take over", 60.0)
    assert taken not in owners
