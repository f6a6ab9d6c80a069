"""Browsers with the page open, as far as the server sees: its HTML, its websocket, what both then say.

Every client gets the page, connects with the query that the page carries, in socket.io's protocol (engine.io
4 over a websocket, compressed as browsers ask for), answers pings, and tells every three seconds what it has
got. Nothing is drawn. The page's scripts and styles are not fetched: browsers keep them.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Event
from urllib.parse import urlencode

import aiohttp
import uvloop

TOLD_EVERY = 3.0
AT_ONCE = 4
AGAIN_AFTER = 1.0
"""Seconds after which socket.io connects again when its socket was closed."""
FAILURES = (aiohttp.ClientError, TimeoutError, ValueError, TypeError)
_QUERY = re.compile(
    r"query: \{'client_id': '([^']+)', 'next_message_id': (\d+), 'implicit_handshake': True\}"
)
_NUMBER = re.compile(r'"_id":(\d+)')
_RELOADS = "location.reload"


@dataclass(frozen=True)
class Visit:
    """The pages that are opened, in turn. token: whose session the browsers have."""

    url: str
    token: str
    paths: Sequence[str]


@dataclass
class PageFigures:
    """What the browsers met.

    opened: seconds until a page was connected, each; reconnected: how often a socket was closed and the page
    connected again; reloaded: how often it was loaded anew, since the server did not know it any more or said
    so; lost: pages that could not be; cpu: share of a core that all browsers took here.
    """

    opened: list[float] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    reconnected: int = 0
    reloaded: int = 0
    lost: int = 0
    messages: int = 0
    bytes: int = 0
    connected: int = 0
    wall: float = 0.0
    cpu: float = 0.0

    def fails(self, what: str) -> None:
        """Count a page that could not be opened."""
        self.failed[what] = self.failed.get(what, 0) + 1


@dataclass
class _Page:
    """An open page. next_message: the number of the first message that it has not got."""

    client_id: str
    next_message: int
    document_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    tab_id: str = field(default_factory=lambda: str(uuid.uuid4()))


def watch(visit: Visit, clients: int, opened: Event, over: Event) -> PageFigures:
    """Open so many pages, say so by `opened`, and keep them open until `over`."""
    return uvloop.run(_Watching(visit).run(clients, opened, over))


class _Watching:
    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._figures = PageFigures()
        self._opening = asyncio.Semaphore(AT_ONCE)

    async def run(self, clients: int, opened: Event, over: Event) -> PageFigures:
        began, cpu = time.monotonic(), time.process_time()
        # One jar for each browser is not needed: all have the same session.
        async with aiohttp.ClientSession(
            self._visit.url,
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.CookieJar(unsafe=True),
        ) as session:
            await self._log_in(session)
            ready = [asyncio.Event() for _ in range(clients)]
            tasks = [
                asyncio.create_task(self._browse(session, number, ready[number])) for number in range(clients)
            ]
            await asyncio.gather(*(event.wait() for event in ready))
            opened.set()
            await asyncio.to_thread(over.wait)
            self._figures.connected = sum(not task.done() for task in tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._figures.wall = time.monotonic() - began
        self._figures.cpu = (time.process_time() - cpu) / self._figures.wall
        return self._figures

    async def _log_in(self, session: aiohttp.ClientSession) -> None:
        form, here = {"token": self._visit.token}, {"Origin": self._visit.url}
        async with session.post("/login", data=form, headers=here, allow_redirects=False) as answer:
            if answer.status != 303:
                raise SystemExit(f"the browsers can't log in: {answer.status} {await answer.text()}")
        # Chosen once by a person; the page would ask the browser's system otherwise.
        session.cookie_jar.update_cookies({"autombw_theme": "dark"})

    async def _browse(self, session: aiohttp.ClientSession, number: int, ready: asyncio.Event) -> None:
        path = self._visit.paths[number % len(self._visit.paths)]
        try:
            async with self._opening:
                began = time.monotonic()
                page = await _open(session, path)
                socket = await self._connect(session, page)
                self._figures.opened.append(time.monotonic() - began)
        except FAILURES as error:
            self._figures.fails(f"{type(error).__name__}: {error}")
            return
        finally:
            ready.set()
        try:
            while True:
                async with socket:
                    reload = await self._listen(socket, page)
                await asyncio.sleep(AGAIN_AFTER)
                if not reload:
                    try:
                        socket = await self._connect(session, page)
                        self._figures.reconnected += 1
                        continue
                    except FAILURES:
                        pass
                self._figures.reloaded += 1
                page = await _open(session, path)
                socket = await self._connect(session, page)
        except FAILURES:
            self._figures.lost += 1

    async def _connect(self, session: aiohttp.ClientSession, page: _Page) -> aiohttp.ClientWebSocketResponse:
        """A socket of an open page. Raises ValueError where the server does not know the page."""
        query = {
            "client_id": page.client_id,
            "next_message_id": page.next_message,
            "implicit_handshake": "true",
            "document_id": page.document_id,
            "tab_id": page.tab_id,
            "EIO": 4,
            "transport": "websocket",
        }
        socket = await session.ws_connect(
            f"/_nicegui_ws/socket.io/?{urlencode(query)}",
            headers={"Origin": self._visit.url},
            compress=15,
            max_msg_size=0,
        )
        # Engine.io's greeting, then socket.io's; TypeError where the socket is closed instead.
        await socket.receive_str()
        await socket.send_str("40")
        while (answered := await socket.receive_str()) == "2":
            await socket.send_str("3")
        if not answered.startswith("40"):
            raise ValueError(f"the socket was refused: {answered[:100]}")
        return socket

    async def _listen(self, socket: aiohttp.ClientWebSocketResponse, page: _Page) -> bool:
        """Until the server closes the socket, or, then True, has the page loaded anew."""
        told = time.monotonic()
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            text: str = message.data
            if text == "2":
                await socket.send_str("3")
                continue
            self._figures.messages += 1
            self._figures.bytes += len(text)
            if _RELOADS in text:
                return True
            # The number is what the server wrote last into the message.
            if ids := _NUMBER.findall(text, max(0, len(text) - 40)):
                page.next_message = int(ids[-1]) + 1
            if time.monotonic() - told > TOLD_EVERY:
                told = time.monotonic()
                ack = {"client_id": page.client_id, "next_message_id": page.next_message}
                await socket.send_str(f"42{json.dumps(['ack', ack])}")
        return False


async def _open(session: aiohttp.ClientSession, path: str) -> _Page:
    async with session.get(path) as answer:
        answer.raise_for_status()
        found = _QUERY.search(await answer.text())
    if found is None:
        raise ValueError("the page has no query for its socket")
    return _Page(found[1], int(found[2]))
