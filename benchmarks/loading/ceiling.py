"""What the generator of the reads can do at most: against a server that does nothing, on the same cores."""

from __future__ import annotations

import asyncio
import multiprocessing
import time

import aiohttp
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from benchmarks.loading.readers import CONNECTIONS

SECONDS = 3.0


def highest_rate() -> float:
    """Requests a second that one process gets answered at most, one behind the other on every connection."""
    from tests.integration.conftest import free_port, healthy, wait_until

    port = free_port()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(port,))
    server.start()
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: healthy(url), "the server that does nothing", 60.0)
        return uvloop.run(_closed_loop(f"{url}/"))
    finally:
        server.kill()
        server.join()


async def _closed_loop(url: str) -> float:
    end, answered = time.monotonic() + SECONDS, 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:

        async def ask() -> None:
            nonlocal answered
            while time.monotonic() < end:
                async with session.get(url) as answer:
                    await answer.read()
                answered += 1

        began = time.monotonic()
        await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
        return answered / (time.monotonic() - began)


def _serve(port: int) -> None:
    uvicorn.run(_nothing, port=port, log_level="error", access_log=False)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
