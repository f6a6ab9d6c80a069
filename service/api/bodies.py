"""Bodies of requests, read whole before anything is made of them: not too large, too slow, or too deep."""

from __future__ import annotations

import asyncio
import re

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import problem

BODY_SECONDS = 60.0
JSON_DEPTH = 64
BODY = "autombw.body"
"""Where the scope of a request to the API has its body."""
_LARGE = 100_000
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


class BodyLimits:
    """ASGI: refuses bodies of more than `max_bytes`, and of more than a minute.

    Those of the API are JSON. They are read here and handed on as one, since a body that is cut off in the
    middle can't be answered any more by who reads it. What the page uploads is only counted.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            await self._too_large()(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._read(receive)
        except TimeoutError:
            answer = problem(408, "Too slow", f"the body did not arrive within {BODY_SECONDS:g} s; try again")
            await answer(scope, receive, send)
            return
        if body is None:
            await self._too_large()(scope, receive, send)
            return
        if "json" in Headers(scope=scope).get("content-type", "json") and await _is_too_deep(body):
            detail = f"the body nests lists and objects more than {JSON_DEPTH} deep"
            await problem(422, "Wrong input", detail)(scope, receive, send)
            return
        scope[BODY] = body
        await self._app(scope, _replayed(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The body; None for one that is too large."""
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._max_bytes:
                return None
            more = message.get("more_body", False)
        return b"".join(chunks)

    def _too_large(self) -> ASGIApp:
        return problem(
            413,
            "Too large",
            f"the body has more than {self._max_bytes / 1e6:g} MB; send less, or raise max_body_mb",
            headers={"Connection": "close"},
        )


async def _is_too_deep(body: bytes) -> bool:
    if body.count(b"[") + body.count(b"{") <= JSON_DEPTH:
        return False
    # Some 10 ms per MB: what is large must not hold up the others.
    deep = await run_in_threadpool(depth, body) if len(body) > _LARGE else depth(body)
    return deep > JSON_DEPTH


def depth(body: bytes) -> int:
    """How deep JSON nests; it is counted no further than one beyond the limit."""
    now = deepest = 0
    for found in _STRUCTURE.finditer(body):
        sign = found[0]
        if sign in (b"[", b"{"):
            now += 1
            deepest = max(deepest, now)
            if deepest > JSON_DEPTH:
                break
        elif sign in (b"]", b"}"):
            now -= 1
    return deepest


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
