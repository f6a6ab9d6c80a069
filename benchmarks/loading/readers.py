"""Reads of the API at a fixed rate, whether or not the server keeps up.

Every latency counts from the moment at which the request was due, so that a server which stops for a second
is charged for all requests that waited meanwhile (no "coordinated omission"). aiohttp, which NiceGUI brings,
sends several times as many requests per second of CPU as httpx; here that CPU is taken from the server.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp
import uvloop

CONNECTIONS = 64
MOST_OPEN = 1500
"""So many requests may wait for their answers; those due beyond are not sent, and counted as errors."""
PATIENCE = 30.0
PAGE = 100
"""Pages of lists begin where one comes to who follows their links from the first."""
FIRST_SECONDS = 60.0
"""What is asked for later is told apart too: at first the server keeps nothing yet."""
AGAIN = 0.5
"""Share of the reads that show the ETag they were given before, as browsers and pollers do."""


@dataclass(frozen=True)
class Target:
    """What is read. token: shown with every request."""

    url: str
    token: str
    job_id: str
    node: str
    hashes: list[str]
    last_trial: int
    last_event: int


@dataclass
class Reads:
    """What came of the reads of one kind. Seconds; later: of those alone that were due after FIRST_SECONDS;
    errors: what went wrong -> how often."""

    seconds: list[float] = field(default_factory=list)
    later: list[float] = field(default_factory=list)
    not_modified: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    def failed(self, what: str) -> None:
        """Count an error."""
        self.errors[what] = self.errors.get(what, 0) + 1


@dataclass
class ReadFigures:
    """All kinds together. late: how late the generator itself was with the latest percent of the requests it
    sent; cpu: its share of a core; streams: event streams that were open, and how many of them broke."""

    kinds: dict[str, Reads]
    sent: int
    wall: float
    late: float
    cpu: float
    events: int
    streams_broken: int


Draw = Callable[[random.Random, Target], str]
KINDS: dict[str, tuple[int, Draw]] = {
    "jobs": (8, lambda _, __: "/api/v1/jobs"),
    "job": (20, lambda _, to: f"/api/v1/jobs/{to.job_id}"),
    "trials, a page of 100": (
        14,
        lambda draw, to: (
            f"/api/v1/jobs/{to.job_id}/trials?after={draw.randrange(-1, to.last_trial - 100, PAGE)}"
        ),
    ),
    "trial with its renders": (
        12,
        lambda draw, to: f"/api/v1/jobs/{to.job_id}/trials/{draw.randint(1, to.last_trial)}",
    ),
    "best trial": (4, lambda _, to: f"/api/v1/jobs/{to.job_id}/best"),
    "log, a page of 100": (
        6,
        lambda draw, to: f"/api/v1/jobs/{to.job_id}/log?after={draw.randrange(0, to.last_event, PAGE)}",
    ),
    "gallery, first page": (3, lambda _, __: "/api/v1/renders?limit=120"),
    "gallery, further page": (
        5,
        lambda draw, to: (
            f"/api/v1/renders?limit=120&after={draw.randint(1, to.last_trial)}-{draw.randrange(20)}"
        ),
    ),
    "thumbnail": (22, lambda draw, to: f"/thumbnails/256/{draw.choice(to.hashes)}.webp"),
    "image": (6, lambda draw, to: f"/api/v1/images/{draw.choice(to.hashes)}.png"),
}
"""Kind of read -> (its share in percent, one of its paths)."""


def read(target: Target, rate: float, seconds: float, streams: int, seed: int = 0) -> ReadFigures:
    """Send `rate` requests a second for `seconds`, beside some open event streams."""
    return uvloop.run(_Reading(target, rate, seconds, seed).run(streams))


class _Reading:
    def __init__(self, target: Target, rate: float, seconds: float, seed: int) -> None:
        self._target, self._rate, self._seconds = target, rate, seconds
        self._draw = random.Random(seed)
        self._kinds = {name: Reads() for name in KINDS}
        self._etags: dict[str, str] = {}
        self._late: list[float] = []
        self._events = 0
        self._streams_broken = 0

    async def run(self, streams: int) -> ReadFigures:
        loop, began = asyncio.get_running_loop(), time.process_time()
        headers = {"Authorization": f"Bearer {self._target.token}"}
        async with aiohttp.ClientSession(
            self._target.url,
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=PATIENCE),
        ) as session:
            self._session, self._turns = session, asyncio.Semaphore(CONNECTIONS)
            following = [asyncio.create_task(self._follow()) for _ in range(streams)]
            self._start = loop.time() + 0.1
            await self._send()
            wall = loop.time() - self._start
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
        late = sorted(self._late)
        return ReadFigures(
            kinds=self._kinds,
            sent=len(late),
            wall=wall,
            late=late[int(0.99 * len(late))] if late else 0.0,
            cpu=(time.process_time() - began) / wall,
            events=self._events,
            streams_broken=self._streams_broken,
        )

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        names, shares = list(KINDS), [share for share, _ in KINDS.values()]
        open_tasks: set[asyncio.Task[None]] = set()
        for number in range(round(self._rate * self._seconds)):
            due = self._start + number / self._rate
            name = self._draw.choices(names, shares)[0]
            path = KINDS[name][1](self._draw, self._target)
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            elif number % 50 == 0:
                # A generator that is behind must let answers in too.
                await asyncio.sleep(0)
            if len(open_tasks) >= MOST_OPEN:
                self._kinds[name].failed("not sent: too many are open")
                continue
            self._late.append(loop.time() - due)
            task = asyncio.create_task(self._read(name, path, due))
            open_tasks.add(task)
            task.add_done_callback(open_tasks.discard)
        if open_tasks:
            await asyncio.wait(open_tasks)

    async def _read(self, name: str, path: str, due: float) -> None:
        reads = self._kinds[name]
        again = self._draw.random() < AGAIN
        try:
            async with self._turns, self._session.get(path, headers=self._known(path, again)) as answer:
                await answer.read()
                if answer.status not in (200, 304):
                    reads.failed(str(answer.status))
                    return
                reads.not_modified += answer.status == 304
                if etag := answer.headers.get("ETag"):
                    self._etags[path] = etag
        except (aiohttp.ClientError, TimeoutError) as error:
            reads.failed(type(error).__name__)
            return
        took = asyncio.get_running_loop().time() - due
        reads.seconds.append(took)
        if due >= self._start + FIRST_SECONDS:
            reads.later.append(took)

    def _known(self, path: str, again: bool) -> dict[str, str]:
        """The ETag that was given before, where it is to be shown: asked when the read is sent."""
        etag = self._etags.get(path) if again else None
        return {"If-None-Match": etag} if etag else {}

    async def _follow(self) -> None:
        """Follow the events of the job from now on."""
        path = f"/api/v1/jobs/{self._target.job_id}/events"
        headers = {"Last-Event-ID": str(self._target.last_event)}
        forever = aiohttp.ClientTimeout(total=None)
        try:
            async with self._session.get(path, headers=headers, timeout=forever) as answer:
                answer.raise_for_status()
                async for line in answer.content:
                    self._events += line.startswith(b"id:")
        except aiohttp.ClientError:
            pass
        # A stream of a job that runs has no end.
        self._streams_broken += 1
