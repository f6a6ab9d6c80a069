"""The HTTP server under the application, set for strangers: slow clients are hung up on."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 20.0
IDLE_SECONDS = 15
CONNECTIONS = 2000
LARGEST_HEAD = 64_000
LARGEST_MESSAGE = 1_000_000


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


def server_of(app: FastAPI, **given: Any) -> uvicorn.Server:
    """A server for the application. given: more of uvicorn's settings."""
    settings: dict[str, Any] = {
        "log_level": "warning",
        # Its records go where ours go, in the same format.
        "log_config": None,
        "http": _Impatient,
        "timeout_keep_alive": IDLE_SECONDS,
        "limit_concurrency": CONNECTIONS,
        "ws_max_size": LARGEST_MESSAGE,
        "timeout_graceful_shutdown": 3,
        # The application believes only the proxies of its settings; uvicorn would believe any on loopback.
        "proxy_headers": False,
        "server_header": False,
    }
    return uvicorn.Server(uvicorn.Config(app, **(settings | given)))
