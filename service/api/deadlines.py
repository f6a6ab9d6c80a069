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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seconds = self._seconds(scope)
        if not seconds:
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, seconds, receive, send)
        try:
            await self._app(scope, answer.receive, answer.send)
        except BaseException as error:
            if not answer.ends_here(error):
                raise
        finally:
            answer.timer.cancel()
        if answer.instead is not None:
            # The server looks whether there was an answer as soon as this ends.
            await answer.instead

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


class _Answer:
    """An answer that may not have begun yet, made in the present task.

    instead: the answer that says that it took too long; what comes afterwards is dropped.
    """

    def __init__(self, scope: Scope, seconds: float, receive: Receive, send: Send) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._scope, self._seconds = scope, seconds
        self._receive, self._send = receive, send
        self._due = self._loop.time() + seconds
        self._has_begun = False
        self.timer = self._loop.call_at(self._due, self._look)
        self.instead: asyncio.Task[None] | None = None

    def _look(self) -> None:
        if self._has_begun:
            return
        if self._loop.time() < self._due:
            self.timer = self._loop.call_at(self._due, self._look)
            return
        log.warning("%s was not answered in time", self._asked)
        self.instead = self._loop.create_task(self._answer_instead())
        if self._scope["method"] in SAFE and self._task is not None:
            self._task.cancel()

    async def _answer_instead(self) -> None:
        await _too_late(self._scope, self._seconds)(self._scope, self._receive, self._send)

    def ends_here(self, error: BaseException) -> bool:
        """Whether what the handler ended with is nobody's business any more: it was answered for."""
        if self.instead is None:
            return False
        if isinstance(error, asyncio.CancelledError):
            # It was cancelled here, or else by a server that ends.
            return self._task is not None and self._task.uncancel() == 0
        if isinstance(error, Exception):
            log.error("%s, which was too late, failed: %s", self._asked, error, exc_info=error)
            return True
        return False

    @property
    def _asked(self) -> str:
        return f"{self._scope['method']} {self._scope['path']}"

    async def receive(self) -> Message:
        if self.instead is not None:
            return {"type": "http.disconnect"}
        message = await self._receive()
        # The body is still on its way, or has just come.
        self._due = self._loop.time() + self._seconds
        return message

    async def send(self, message: Message) -> None:
        if self.instead is not None:
            return
        self._has_begun = True
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
