"""The HTTP server under the application, set for strangers: slow clients are hung up on."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.context import Context
from service.api.problems import problem

log = logging.getLogger(__name__)

HEAD_SECONDS = 20.0
IDLE_SECONDS = 15
CONNECTIONS = 2000
LARGEST_HEAD = 64_000
LARGEST_MESSAGE = 1_000_000
GRACE_SECONDS = 3
LEAVE_SECONDS = 25.0
LAST_SECONDS = 32.0


class _Impatient(HttpToolsProtocol):
    """Closes a connection whose request has no complete head after a while (slow loris), or a huge one.

    uvicorn itself waits and reads for ever. Between requests its keep-alive timeout counts.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head: int | None = 0
        self._timer = self.loop.call_later(HEAD_SECONDS, self._hang_up)

    def data_received(self, data: bytes) -> None:
        # A head that is complete within these bytes is no longer one when they are parsed.
        super().data_received(data)
        if self._head is not None:
            self._head += len(data)
            if self._head > LARGEST_HEAD:
                self._hang_up()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0
        self._timer.cancel()
        self._timer = self.loop.call_later(HEAD_SECONDS, self._hang_up)

    def on_headers_complete(self) -> None:
        self._head = None
        self._timer.cancel()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _hang_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """Tells the application first that it stops, and does not wait for ever for what goes on in threads."""

    def __init__(self, config: uvicorn.Config, context: Context, told: Callable[[], None]) -> None:
        super().__init__(config)
        self._context, self._told = context, told

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is open. Requests get GRACE_SECONDS, their threads LEAVE_SECONDS in all."""
        self._context.stopping.set()
        self._told()
        if threading.current_thread() is threading.main_thread():
            # Python would wait for a thread that waits for a lock of the database, or writes a checkpoint.
            deadline = threading.Timer(LEAVE_SECONDS, _leave)
            deadline.daemon = True
            deadline.start()
            # While an interpreter takes itself apart no thread of Python runs any more; this one is none.
            faulthandler.dump_traceback_later(LAST_SECONDS, exit=True)
        await super().shutdown(sockets)


def _leave() -> None:
    log.warning("a request was still at work after %g s; what it had not committed is lost", LEAVE_SECONDS)
    logging.shutdown()
    os._exit(0)


class _Ending:
    """ASGI: ends a request that the server no longer waits for; uvicorn would log a traceback."""

    def __init__(self, app: ASGIApp, stopping: threading.Event) -> None:
        self._app, self._stopping = app, stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noticed(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noticed)
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
            if scope["type"] == "http" and not begun:
                await _stopped(scope, receive, send)


def _stopped(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    answer = problem(
        503,
        "Service stops",
        "the service was stopped before this was answered; look whether it was done once it is back",
        headers={"Retry-After": "10", "Connection": "close"},
    )
    return answer(scope, receive, send)


def server_of(app: FastAPI, told_to_stop: Callable[[], None] = lambda: None, **given: Any) -> Server:
    """A server for the application. told_to_stop: called when it begins to stop. given: more of uvicorn's
    settings."""
    context: Context = app.state.context
    settings: dict[str, Any] = {
        "log_level": "warning",
        # Its records go where ours go, in the same format.
        "log_config": None,
        "http": _Impatient,
        "timeout_keep_alive": IDLE_SECONDS,
        "limit_concurrency": CONNECTIONS,
        "ws_max_size": LARGEST_MESSAGE,
        "timeout_graceful_shutdown": GRACE_SECONDS,
        # The application believes only the proxies of its settings; uvicorn would believe any on loopback.
        "proxy_headers": False,
        "server_header": False,
    }
    config = uvicorn.Config(_Ending(app, context.stopping), **(settings | given))
    return Server(config, context, told_to_stop)
