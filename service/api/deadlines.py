"""Every request is answered in time: a handler that takes too long is answered for, with what took long."""

from __future__ import annotations

import asyncio
import logging
import re

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.guard import method_of, route_path
from service.access.policy import SAFE
from service.api.problems import problem
from service.settings import Settings

log = logging.getLogger(__name__)
RETRY_SECONDS = "5"
WORK = (
    # These read, hash or write files of several GB, or look at all that a job has.
    ("POST", r"/api/v1/jobs(/plan)?"),
    ("POST", r"/api/v1/jobs/[^/]+/(clone|leaves|rescore|export|retally)"),
    ("GET", r"/api/v1/jobs/[^/]+/report"),
    ("POST", r"/api/v1/gc"),
    ("GET", r"/api/v1/models(/[^/]+)?"),
    ("GET", r"/api/v1/components"),
    ("POST", r"/api/v1/components/[a-z]+"),
    ("POST", r"/api/v1/uniform"),
)
"""(method, path) of requests that may take `work_seconds`; all others have `request_seconds`."""
_WORK = tuple((method, re.compile(path)) for method, path in WORK)
_POLLING = "/_nicegui_ws/"
"""Where a browser without websockets asks and waits until there is something to tell."""


class Deadlines:
    """ASGI, in front of the guard: answers 503 for a handler that has not begun its answer in time.

    The time counts from the moment at which the body was there, since slow senders are hung up on elsewhere
    (service/api/bodies.py), and until the answer begins: a stream of events or a download lasts as it lasts.
    What only reads is cancelled. What changes something goes on behind the answer, to its end: half of it
    would be worse, and the same Idempotency-Key finds what came of it. A thread can't be stopped in either
    case; it is left to end.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        self._request, self._work = settings.request_seconds, settings.work_seconds
        self._left: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seconds = self._seconds(scope)
        if not seconds:
            await self._app(scope, receive, send)
            return
        answer = _Answer(seconds, receive, send)
        task = asyncio.create_task(self._run(scope, answer))
        try:
            await answer.wait(task)
        except BaseException:
            task.cancel()
            raise
        if task.done() or answer.begun.done():
            await task
            return
        answer.is_late = True
        self._leave(task, scope)
        await _too_late(scope, seconds)(scope, receive, send)

    async def _run(self, scope: Scope, answer: _Answer) -> None:
        await self._app(scope, answer.receive, answer.send)

    def _seconds(self, scope: Scope) -> float:
        """How long a handler has; 0: as long as it likes."""
        if scope["type"] != "http":
            return 0.0
        connection = HTTPConnection(scope)
        method, path = method_of(connection), route_path(connection)
        if path.startswith(_POLLING):
            return 0.0
        works = any(method == of and pattern.fullmatch(path) for of, pattern in _WORK)
        return self._work if works else self._request

    def _leave(self, task: asyncio.Task[None], scope: Scope) -> None:
        asked = f"{scope['method']} {scope['path']}"
        log.warning("%s was not answered in time", asked)

        def ended(task: asyncio.Task[None]) -> None:
            self._left.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("%s, which was too late, failed: %s", asked, error, exc_info=error)

        self._left.add(task)
        task.add_done_callback(ended)
        if scope["method"] in SAFE:
            task.cancel()


class _Answer:
    """An answer that may not have begun yet. is_late: somebody else has answered; what comes is dropped."""

    def __init__(self, seconds: float, receive: Receive, send: Send) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._due = self._loop.time() + seconds
        self._receive, self._send = receive, send
        self.begun: asyncio.Future[None] = self._loop.create_future()
        self.is_late = False

    async def wait(self, task: asyncio.Task[None]) -> None:
        """Until the task ends, the answer begins, or it is due."""
        while not (task.done() or self.begun.done()):
            left = self._due - self._loop.time()
            if left <= 0:
                return
            await asyncio.wait((task, self.begun), timeout=left, return_when=asyncio.FIRST_COMPLETED)

    async def receive(self) -> Message:
        if self.is_late:
            return {"type": "http.disconnect"}
        message = await self._receive()
        # The body is still on its way, or has just come.
        self._due = self._loop.time() + self._seconds
        return message

    async def send(self, message: Message) -> None:
        if self.is_late:
            return
        if not self.begun.done():
            self.begun.set_result(None)
        await self._send(message)


def _too_late(scope: Scope, seconds: float) -> ASGIApp:
    asked = f"{scope['method']} {route_path(HTTPConnection(scope))}"
    changes = (
        ""
        if scope["method"] in SAFE
        else "; what it began goes on: look what came of it before you ask again"
    )
    return problem(
        503,
        "Took too long",
        f"{asked} was not answered within {seconds:g} s{changes}; try again later, or raise request_seconds "
        "(work_seconds for what reads and writes models)",
        headers={"Retry-After": RETRY_SECONDS},
    )
