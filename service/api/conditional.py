"""ETag and 304 (RFC 9110): who has the present version of something is not sent it again."""

from __future__ import annotations

import hashlib
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BYTES = 4_000_000
_TAG = re.compile(r'(?:W/)?("[^"]*")')


def matches(header: str | None, etag: str) -> bool:
    """Whether an If-None-Match or If-Match header names this ETag; weak and strong ones are the same here."""
    if header is None:
        return False
    return header.strip() == "*" or etag.removeprefix("W/") in _TAG.findall(header)


class Conditional:
    """ASGI: gives JSON that has no ETag one, of its content, and answers 304 where the client has it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        await self._app(scope, receive, _Answer(Headers(scope=scope).get("if-none-match"), send).send)


class _Answer:
    """An answer on its way. JSON is held back until its end is there; all else passes."""

    def __init__(self, known: str | None, send: Send) -> None:
        self._known = known
        self._send = send
        self._start: Message | None = None
        self._body = bytearray()
        self._dropped = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif self._dropped:
            return
        elif self._start is None:
            await self._send(message)
        else:
            await self._go_on(message)

    async def _begin(self, message: Message) -> None:
        headers = MutableHeaders(scope=message)
        etag = headers.get("etag")
        if message["status"] == 200 and etag is not None and matches(self._known, etag):
            await self._not_modified(message)
        elif message["status"] == 200 and etag is None and _is_small_json(headers):
            self._start = message
        else:
            await self._send(message)

    async def _go_on(self, message: Message) -> None:
        assert self._start is not None
        self._body += message.get("body", b"")
        if message.get("more_body", False):
            return
        headers = MutableHeaders(scope=self._start)
        headers["etag"] = f'"{hashlib.sha256(self._body).hexdigest()[:32]}"'
        headers.setdefault("cache-control", "no-cache")
        if matches(self._known, headers["etag"]):
            await self._not_modified(self._start)
        else:
            await self._send(self._start)
            await self._send({"type": "http.response.body", "body": bytes(self._body)})

    async def _not_modified(self, start: Message) -> None:
        self._dropped = True
        await not_modified(start, self._send)


async def not_modified(start: Message, send: Send) -> None:
    """Answer 304 in the place of an answer that begins so. Its headers are changed."""
    headers = MutableHeaders(scope=start)
    for name in ("content-length", "content-type"):
        if name in headers:
            del headers[name]
    await send({**start, "status": 304})
    await send({"type": "http.response.body", "body": b""})


def _is_small_json(headers: MutableHeaders) -> bool:
    length = headers.get("content-length", "")
    return headers.get("content-type") == "application/json" and (
        length.isdecimal() and int(length) <= MAX_BYTES
    )
