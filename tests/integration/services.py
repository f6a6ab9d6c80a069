"""A real service in this process: uvicorn in a thread, on a port of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from service.access.roles import Role
from service.api.app import create_app
from service.api.serving import server_of
from service.db.store import Store
from service.settings import Settings


@dataclass(frozen=True)
class Running:
    """A service that listens."""

    url: str
    app: FastAPI
    store: Store
    tokens: dict[Role, str]

    def bearer(self, role: Role) -> dict[str, str]:
        """The header of who has this role."""
        return {"Authorization": f"Bearer {self.tokens[role]}"}


@contextmanager
def running(settings: Settings, *, tokens: bool) -> Iterator[Running]:
    """A service, with a token of each role or with none."""
    app = create_app(settings)
    store: Store = app.state.context.store
    made = {role: store.create_token(role.value, role)[1].text for role in Role} if tokens else {}
    server = server_of(app)
    server.config.host, server.config.port = "127.0.0.1", 0
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield Running(f"http://127.0.0.1:{_port(server)}", app, store, made)
    finally:
        server.should_exit = True
        thread.join(20)


def _port(server: uvicorn.Server) -> int:
    end = time.monotonic() + 60
    while not server.started and time.monotonic() < end:
        time.sleep(0.01)
    return int(server.servers[0].sockets[0].getsockname()[1])
