"""The guard: every request and websocket passes it, and gets no further without the role that it needs.

Pure ASGI, in front of all routes, mounts and websockets: what nobody thought of is refused, not let through.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from urllib.parse import quote

from sqlalchemy.exc import OperationalError, SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from service.access.accounts import Accounts
from service.access.identity import LOCAL, Identity, is_loopback, set_identity
from service.access.origins import host_name, is_foreign, is_known_host
from service.access.policy import SAFE, WEBSOCKET, needed
from service.access.proxies import FROM_A_NETWORK
from service.access.rates import Buckets, GuessLimit
from service.access.roles import Role
from service.access.secrets import SESSION, TOKEN
from service.api.problems import problem
from service.db.access import Deed
from service.db.store import Store
from service.settings import Settings

log = logging.getLogger(__name__)
COOKIE = "autombw_session"
RATE_WINDOW_SECONDS = 10
POLICY_VIOLATION = 1008
MAKE_ONE = "make one with `autombw token create --role viewer|submitter|admin --name NAME`"


class Refused(Exception):
    """A request that goes no further, with the answer to it."""

    def __init__(self, response: Response) -> None:
        self.response = response


class _Revoked(OSError):
    """Nothing more may be sent: what was shown is no longer valid."""


@dataclass(frozen=True)
class Shown:
    """What a request shows of itself, and whom it belongs to."""

    identity: Identity
    kind: str = ""
    text: str = ""


class Guard:
    """ASGI middleware. guesses: shared with the login, so that wrong tokens are counted together."""

    def __init__(
        self, app: ASGIApp, *, settings: Settings, store: Store, accounts: Accounts, guesses: GuessLimit
    ) -> None:
        self._app = app
        self._settings = settings
        self._store = store
        self._accounts = accounts
        self._guesses = guesses
        self._rates = Buckets(
            settings.request_rate, max(1, round(settings.request_rate * RATE_WINDOW_SECONDS))
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        try:
            shown = await self._admit(connection)
            if shown is not None:
                send = self._counted(connection, shown.identity, send)
        except Refused as refused:
            await _answer(refused.response, scope, receive, send)
            return
        except OperationalError as error:
            log.error("the guard does not reach the database: %s", error.args[0])
            detail = "the database does not answer, so who asks can't be checked; try again"
            await _answer(problem(503, "Database not available", detail), scope, receive, send)
            return
        set_identity(scope, None if shown is None else shown.identity)
        if shown is not None:
            send = self._audited(connection, shown.identity, send)
        if shown is None or not shown.kind:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await _WhileHeld(self._accounts, shown).websocket(self._app, scope, receive, send)
        else:
            await _WhileHeld(self._accounts, shown).stream(self._app, scope, receive, send)

    async def _admit(self, connection: HTTPConnection) -> Shown | None:
        """Who asks; None for whoever asks for what is open to all. Raises Refused, OperationalError."""
        asks = self._accounts.known_to_ask() or await run_in_threadpool(self._accounts.asks)
        method, path = method_of(connection), route_path(connection)
        allowed = (*self._settings.allowed_hosts, self._settings.host)
        if (not asks or self._settings.allowed_hosts) and not is_known_host(connection.headers, allowed):
            name = host_name(connection.headers.get("host", "")) or "no name"
            raise Refused(
                _refusal(
                    403, f"this service is not known as {name}; call it localhost, or add to allowed_hosts"
                )
            )
        if not asks:
            return self._admit_local(connection, method)
        shown = await self._shown(connection)
        role = needed(method, path)
        if shown is None:
            if role is None:
                return None
            raise Refused(_who_are_you(connection))
        if role is not None and not shown.identity.role.allows(role):
            await self._record(connection, shown.identity, 403)
            raise Refused(
                _refusal(
                    403,
                    f"{method} {path} needs the role {role.value}, and {shown.identity.name} is "
                    f"{shown.identity.role.value}; {MAKE_ONE}",
                )
            )
        if shown.identity.via == "cookie":
            _refuse_foreign(connection, method, browser=True)
        return shown

    def _admit_local(self, connection: HTTPConnection, method: str) -> Shown:
        address = connection.client.host if connection.client else ""
        if connection.scope.get(FROM_A_NETWORK) and not is_loopback(address):
            raise Refused(
                _refusal(
                    403,
                    "a proxy brings requests of a network to this service, which asks for no token yet; "
                    f"{MAKE_ONE}",
                )
            )
        _refuse_foreign(connection, method, browser=False)
        return Shown(LOCAL)

    async def _shown(self, connection: HTTPConnection) -> Shown | None:
        scheme, _, text = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return await self._bearer(connection, text.strip())
        cookie = connection.cookies.get(COOKIE, "")
        identity = self._accounts.remembered(SESSION, cookie) if cookie else None
        if cookie and identity is None:
            identity = await run_in_threadpool(self._accounts.of_cookie, cookie)
        return None if identity is None else Shown(identity, SESSION, cookie)

    async def _bearer(self, connection: HTTPConnection, text: str) -> Shown:
        address = connection.client.host if connection.client else ""
        waits = self._guesses.wait(address)
        identity = None if waits.wait else self._accounts.remembered(TOKEN, text)
        if identity is None and not waits.wait:
            identity = await run_in_threadpool(self._accounts.of_token, text)
        if identity is not None:
            return Shown(identity, TOKEN, text)
        if waits.wait:
            raise Refused(too_many("too many wrong tokens came from here", waits.retry_after))
        self._guesses.count(address)
        raise Refused(
            _refusal(
                401,
                f"this token is wrong, expired or revoked; {MAKE_ONE}",
                {"WWW-Authenticate": 'Bearer error="invalid_token"'},
            )
        )

    def _counted(self, connection: HTTPConnection, identity: Identity, send: Send) -> Send:
        """Count a request to the API by its token. Raises Refused when there were too many."""
        api = connection.scope["type"] == "http" and route_path(connection).startswith("/api/")
        if not api or identity.token_id is None or not self._settings.request_rate:
            return send
        allowance = self._rates.take(identity.owner)
        limits = {
            "RateLimit-Policy": f'"token";q={self._rates.size};w={RATE_WINDOW_SECONDS}',
            "RateLimit": f'"token";r={allowance.left};t={RATE_WINDOW_SECONDS}',
        }
        if allowance.wait:
            raise Refused(
                too_many(
                    f"this token asks more than {self._settings.request_rate:g} times a second",
                    allowance.retry_after,
                    limits,
                )
            )

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(limits)
            await send(message)

        return counted

    def _audited(self, connection: HTTPConnection, identity: Identity, send: Send) -> Send:
        """Write down what changes something, before its answer leaves."""
        if not _changes(method_of(connection), route_path(connection)):
            return send

        async def audited(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._record(connection, identity, message["status"])
            await send(message)

        return audited

    async def _record(self, connection: HTTPConnection, identity: Identity, status: int) -> None:
        deed = Deed(
            actor=identity.name,
            action=f"{method_of(connection)} {route_path(connection)}",
            token_id=identity.token_id,
            address=connection.client.host if connection.client else None,
            status=status,
        )
        try:
            await run_in_threadpool(self._store.audit, deed)
        except SQLAlchemyError as error:
            # It was done, and its answer must not be lost with its record.
            log.error("not in the audit: %s by %s (%d): %s", deed.action, deed.actor, status, error.args[0])


class _WhileHeld:
    """A connection that ends when what was shown for it is revoked."""

    def __init__(self, accounts: Accounts, shown: Shown) -> None:
        self._accounts = accounts
        self._shown = shown
        self._ended = False

    async def websocket(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Nothing is sent or heard once it is revoked: the socket is closed instead."""

        async def checked_receive() -> Message:
            message = await receive()
            if message["type"] == "websocket.receive" and not await self._goes_on(send):
                return {"type": "websocket.disconnect", "code": POLICY_VIOLATION}
            return message

        async def checked_send(message: Message) -> None:
            if message["type"] != "websocket.send" or await self._goes_on(send):
                await send(message)

        await app(scope, checked_receive, checked_send)

    async def _goes_on(self, send: Send) -> bool:
        if self._ended:
            return False
        if await self._held():
            return True
        self._ended = True
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": "logged out"})
        return False

    async def stream(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """The same for a stream of events; other answers have an end anyway."""
        events = False

        async def checked_send(message: Message) -> None:
            nonlocal events
            if message["type"] == "http.response.start":
                kind = MutableHeaders(scope=message).get("content-type", "")
                events = kind.startswith("text/event-stream")
            elif events and message.get("body") and not await self._held():
                self._ended = True
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                raise _Revoked("the token was revoked")
            await send(message)

        try:
            await app(scope, receive, checked_send)
        except Exception:
            if not self._ended:
                raise

    async def _held(self) -> bool:
        if self._accounts.remembered(self._shown.kind, self._shown.text) is not None:
            return True
        return await run_in_threadpool(self._accounts.holds, self._shown.kind, self._shown.text)


def method_of(connection: HTTPConnection) -> str:
    """The method of a request, or WEBSOCKET."""
    return WEBSOCKET if connection.scope["type"] == "websocket" else str(connection.scope["method"])


def route_path(connection: HTTPConnection) -> str:
    """The path as the routes know it, without a proxy's prefix."""
    path, root = str(connection.scope["path"]), str(connection.scope.get("root_path", ""))
    return (path.removeprefix(root) or "/") if f"{path}/".startswith(f"{root}/") else path


def too_many(what: str, retry_after: str, headers: dict[str, str] | None = None) -> Response:
    """429, with the seconds to wait."""
    detail = f"{what}; try again in {retry_after} s"
    return problem(429, "Too many requests", detail, headers={"Retry-After": retry_after, **(headers or {})})


def _changes(method: str, path: str) -> bool:
    asked = needed(method, path)
    return method not in SAFE and method != WEBSOCKET and asked not in (None, Role.VIEWER)


def _refuse_foreign(connection: HTTPConnection, method: str, *, browser: bool) -> None:
    if method in SAFE or not is_foreign(connection.headers, connection.scope["scheme"], browser=browser):
        return
    raise Refused(
        _refusal(
            403,
            "this request comes from another site's page; behind a proxy, let it pass Host on and name it "
            "in trusted_proxies",
        )
    )


def _who_are_you(connection: HTTPConnection) -> Response:
    """The login for a person who opens a page; for a program, what is missing."""
    page = "text/html" in connection.headers.get("accept", "") and method_of(connection) == "GET"
    if page and not route_path(connection).startswith("/api/"):
        query = connection.scope.get("query_string", b"").decode("latin-1")
        root, wanted = connection.scope.get("root_path", ""), route_path(connection)
        wanted = f"{wanted}?{query}" if query else wanted
        return RedirectResponse(f"{root}/login?next={quote(wanted, safe='')}", 303)
    return _refusal(
        401,
        f"show a token: `Authorization: Bearer TOKEN`, or log in at /login; {MAKE_ONE}",
        {"WWW-Authenticate": "Bearer"},
    )


def _refusal(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    return problem(status, "Not allowed" if status == 403 else "No token", detail, headers=headers)


async def _answer(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await response(scope, receive, send)
    else:
        # Before it is accepted: the handshake is answered with 403. uvicorn knows answers that say more,
        # and then logs an error for each.
        await WebSocketClose(POLICY_VIOLATION)(scope, receive, send)
