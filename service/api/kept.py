"""Answers that are given again, as bytes, for as long as they are true.

A handler says how long its answer is: `keeps.until(...)`. When one that is kept is asked for again, no route,
no thread and no query has a part in it. Measured by `python -m benchmarks.load` (docs/load.md).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.guard import route_path
from service.api.conditional import matches, not_modified
from service.api.news import News, Truth, Until

MOST_BYTES = 64_000_000
"""Of all answers that are kept in a process: the 5,000 trials of a large node and its log take 47 MB. Those
that were not asked for the longest make room."""
LONGEST, BESIDE = 200_000, 1000
"""Bytes of the longest answer that is kept, and of what is kept beside each."""
_KEY = "autombw.keeping"


@dataclass
class Keeping:
    """Whether the answer to this request is kept. asked: called when a handler is found that may keep it."""

    asked: Callable[[], None] = lambda: None
    truth: Truth | None = None

    def until(self, what: Until, job_id: str | None = None) -> None:
        """Keep the answer until this happens to this job, or to any where none is named."""
        self.truth = Truth(what, job_id)


async def _keeping(request: Request) -> Keeping:
    found: Keeping = request.scope.get(_KEY) or Keeping()
    found.asked()
    return found


Keeps = Annotated[Keeping, Depends(_keeping)]
"""For a handler of a GET whose answer depends on its path and query and on the database, and on nobody."""


@dataclass(frozen=True)
class _Kept:
    """count: of the news, before its handler began. route: for the metrics."""

    truth: Truth
    count: int
    route: Any
    start: Message
    body: bytes


_Key = tuple[str, bytes]


class Kept:
    """ASGI, behind the guard: gives an answer again while it is true.

    Who asks for one that is being made waits for it: where more is asked for than can be made, the same would
    be made many times over, and what waits would grow by that.
    """

    def __init__(self, app: ASGIApp, *, news: News) -> None:
        self._app = app
        self._news = news
        self._answers: OrderedDict[_Key, _Kept] = OrderedDict()
        self._bytes = 0
        self._coming: dict[_Key, asyncio.Event] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        key = route_path(HTTPConnection(scope)), scope["query_string"]
        if await self._gave(key, scope, send):
            return
        coming = self._coming.get(key)
        if coming is not None:
            await coming.wait()
            # It may not be kept, or not be true any more.
            if await self._gave(key, scope, send):
                return
        await self._make(key, scope, receive, send)

    async def _gave(self, key: _Key, scope: Scope, send: Send) -> bool:
        """Give what is kept, if that is true."""
        kept = self._answers.get(key)
        if kept is None:
            return False
        is_true = await self._is_true(kept)
        # Others may have made room meanwhile.
        is_there = self._answers.get(key) is kept
        if is_true:
            if is_there:
                self._answers.move_to_end(key)
            scope["route"] = kept.route
            await _give(kept, Headers(scope=scope).get("if-none-match"), send)
        elif is_there:
            self._drop(key)
        return is_true

    async def _make(self, key: _Key, scope: Scope, receive: Receive, send: Send) -> None:
        """Have it answered, and keep the answer where its handler says so."""
        made = asyncio.Event()

        def known() -> None:
            if count is not None and answer.keeping.truth is not None and answer.body is not None:
                route = scope.get("route")
                self._keep(key, _Kept(answer.keeping.truth, count, route, answer.start, bytes(answer.body)))
            made.set()

        answer = _Answer(send, Keeping(lambda: self._coming.update({key: made})), known)
        scope[_KEY] = answer.keeping
        count = self._news.count if await self._news.begin() else None
        try:
            await self._app(scope, receive, answer.send)
        finally:
            made.set()
            if self._coming.get(key) is made:
                del self._coming[key]

    async def _is_true(self, kept: _Kept) -> bool:
        if kept.truth.until is Until.NEVER:
            return True
        return await self._news.arrive() and self._news.happened(kept.truth) <= kept.count

    def _keep(self, key: tuple[str, bytes], kept: _Kept) -> None:
        if key in self._answers:
            self._drop(key)
        self._answers[key] = kept
        self._bytes += len(kept.body) + BESIDE
        while self._bytes > MOST_BYTES:
            self._drop(next(iter(self._answers)))

    def _drop(self, key: tuple[str, bytes]) -> None:
        self._bytes -= len(self._answers.pop(key).body) + BESIDE


class _Answer:
    """An answer on its way, noted down where it is to be kept.

    body: None where it is not. known: called as soon as that is sure or the body is whole, before a client
    that may be slow is sent it.
    """

    def __init__(self, send: Send, keeping: Keeping, known: Callable[[], None]) -> None:
        self.keeping = keeping
        self.start: Message = {}
        self.body: bytearray | None = None
        self._send, self._known = send, known

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self.keeping.truth and message["status"] == 200:
                # What those in front add to the headers is theirs.
                self.start, self.body = {**message, "headers": list(message["headers"])}, bytearray()
            else:
                self._known()
        elif message["type"] == "http.response.body" and self.body is not None:
            self.body += message.get("body", b"")
            if len(self.body) > LONGEST:
                self.body = None
                self._known()
            elif not message.get("more_body", False):
                self._known()
        await self._send(message)


async def _give(kept: _Kept, known: str | None, send: Send) -> None:
    start = {**kept.start, "headers": list(kept.start["headers"])}
    etag = MutableHeaders(scope=start).get("etag")
    if etag is not None and matches(known, etag):
        await not_modified(start, send)
        return
    await send(start)
    await send({"type": "http.response.body", "body": kept.body})
