"""Idempotency-Key: a POST that is sent again does its work once, and is answered the same.

As the IETF's draft says (draft-ietf-httpapi-idempotency-key-header): the same key with another request is
422, one whose first request still runs is 409. Answers are kept for a day, by who asks. What failed for a
reason that may pass (5xx, 429, 401, 403) is not kept: the key can be tried again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re

from sqlalchemy.exc import OperationalError, SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.identity import identity_in
from service.api.bodies import BODY
from service.api.problems import problem
from service.db.access import Kept
from service.db.store import Store

log = logging.getLogger(__name__)
HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
KEPT_HEADERS = ("content-type", "location", "etag")
MAX_BYTES = 4_000_000
_KEY = re.compile(r'"?([\x21\x23-\x7e]{1,200})"?')


class Idempotency:
    """ASGI, behind the guard and the limits of bodies."""

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self._app = app
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        header = Headers(scope=scope).get(HEADER) if scope["type"] == "http" else None
        identity = identity_in(scope)
        if header is None or scope["method"] != "POST" or identity is None:
            await self._app(scope, receive, send)
            return
        key = _KEY.fullmatch(header)
        if key is None:
            detail = f"{HEADER} must be 1 to 200 visible ASCII characters, such as a UUID"
            await problem(400, "Wrong key", detail)(scope, receive, send)
            return
        fingerprint = _fingerprint(scope)
        try:
            kept = await run_in_threadpool(self._store.begin_request, identity.owner, key[1], fingerprint)
        except OperationalError as error:
            log.error("database: %s", error)
            await problem(503, "Database not available", "the database does not answer; try again")(
                scope, receive, send
            )
            return
        if kept is None:
            await self._first(identity.owner, key[1], scope, receive, send)
        else:
            await _again(kept, fingerprint)(scope, receive, send)

    async def _first(self, owner: str, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {}
        body = bytearray()

        async def keeping(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            elif message["type"] == "http.response.body":
                body.extend(message.get("body", b"")[: MAX_BYTES + 1 - len(body)])
                if not message.get("more_body", False):
                    # Kept before its last part leaves: whoever has the answer finds it again.
                    await self._keep(owner, key, start, bytes(body))
            await send(message)

        try:
            await self._app(scope, receive, keeping)
        except BaseException:
            await asyncio.shield(run_in_threadpool(self._store.forget_request, owner, key))
            raise

    async def _keep(self, owner: str, key: str, start: Message, body: bytes) -> None:
        status = int(start["status"])
        passing = status >= 500 or status in (401, 403, 429)
        headers = MutableHeaders(scope=start)
        kept = {name: headers[name] for name in KEPT_HEADERS if name in headers}
        try:
            if passing or len(body) > MAX_BYTES:
                await run_in_threadpool(self._store.forget_request, owner, key)
            else:
                await run_in_threadpool(self._store.end_request, owner, key, status, kept, body)
        except SQLAlchemyError as error:
            log.error("the answer to a request with an idempotency key is not kept: %s", error.args[0])


def _again(kept: Kept, fingerprint: str) -> Response:
    if kept.fingerprint != fingerprint:
        return problem(422, "Key was used", f"this {HEADER} belongs to another request; take a new one")
    if kept.status is None:
        detail = f"the request with this {HEADER} is still worked on; ask again in a moment"
        return problem(409, "Still worked on", detail, headers={"Retry-After": "1"})
    return Response(kept.body, kept.status, {**kept.headers, REPLAYED: "true"})


def _fingerprint(scope: Scope) -> str:
    asked = (scope["method"], scope["path"], scope.get("query_string", b"").decode("latin-1"))
    head = "\n".join(asked).encode()
    return hashlib.sha256(head + b"\n" + scope.get(BODY, b"")).hexdigest()
