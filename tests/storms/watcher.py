"""A client that follows a job over HTTP and notices when something that it saw is no longer there."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import httpx

POLL_SECONDS = 0.4


class Watcher:
    """Polls a job and its trials from a thread while the `with` block runs.

    lost: what was answered once and then no longer, in words. outages: how many times the service began not
    to answer. problems: status and detail of every answer that was an error, each once.
    """

    def __init__(self, server: str, job_id: str) -> None:
        self.lost: list[str] = []
        self.outages = 0
        self.problems: dict[int, set[str]] = {}
        self._url = f"{server}/api/v1/jobs/{job_id}"
        self._counts: dict[str, tuple[int, int]] = {}
        self._scores: dict[int, float | None] = {}
        self._was_there = True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="watcher", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Ask once. Raises httpx.TransportError when nobody answers."""
        job = self._get(self._url)
        for node in () if job is None else job["nodes"]:
            self._compare(node)
            for trial in self._get(f"{self._url}/trials?node={node['name']}&limit=1000") or ():
                if trial["state"] == "done" or trial["id"] in self._scores:
                    before = self._scores.setdefault(trial["id"], trial["score"])
                    if before != trial["score"]:
                        self.lost.append(f"trial {trial['id']} had {before}, then {trial['score']}")

    def _compare(self, node: dict[str, Any]) -> None:
        counts = (node["trials_done"], node["renders"])
        before = self._counts.get(node["name"], (0, 0))
        if any(now < then for now, then in zip(counts, before, strict=True)):
            self.lost.append(f"node {node['name']} had {before} trials and renders, then {counts}")
        self._counts[node["name"]] = counts

    def _get(self, url: str) -> Any:
        answer = httpx.get(url, timeout=90.0)
        if answer.is_success:
            return answer.json()
        problem = answer.headers["content-type"] == "application/problem+json"
        detail = answer.json()["detail"] if problem else f"not a problem: {answer.text}"
        self.problems.setdefault(answer.status_code, set()).add(detail)
        return None

    def _poll(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            try:
                self.look()
                self._was_there = True
            except httpx.TransportError:
                self.outages += self._was_there
                self._was_there = False


class EventReader:
    """Reads a job's event stream from a thread, as a browser does: when it breaks, on from the last event.

    seen: the numbers of the events, in the order in which they came.
    """

    def __init__(self, server: str, job_id: str) -> None:
        self.seen: list[int] = []
        self._url = f"{server}/api/v1/jobs/{job_id}/events"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read_all, name="events", daemon=True)

    def __enter__(self) -> EventReader:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_end(self, last: int, seconds: float) -> bool:
        """Wait for the event of this number; whether it came."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and (not self.seen or self.seen[-1] < last):
            time.sleep(POLL_SECONDS)
        return bool(self.seen) and self.seen[-1] >= last

    def _read_all(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            with contextlib.suppress(httpx.TransportError):
                self._read()

    def _read(self) -> None:
        headers = {"Last-Event-ID": str(self.seen[-1] if self.seen else 0)}
        with httpx.stream("GET", self._url, headers=headers, timeout=5.0) as stream:
            for line in stream.iter_lines():
                if line.startswith("id: "):
                    self.seen.append(int(line.removeprefix("id: ")))
                if self._stop.is_set():
                    return
