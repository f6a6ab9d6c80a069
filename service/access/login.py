"""The login of browsers: a token is pasted once, a cookie stands for it from then on."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader

from service.access.accounts import Accounts
from service.access.guard import COOKIE, too_many
from service.access.identity import Identity
from service.access.origins import is_foreign
from service.access.rates import GuessLimit
from service.api.problems import problem
from service.db.access import Deed
from service.db.store import Store
from service.settings import Settings

_LOCAL_PATH = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
}
_PAGE = Environment(loader=PackageLoader("service.access", "."), autoescape=True)


def login_router(settings: Settings, store: Store, accounts: Accounts, guesses: GuessLimit) -> APIRouter:
    """/login and /logout."""
    router = APIRouter(include_in_schema=False)

    @router.get("/login")
    def page(request: Request, next: Annotated[str, Query()] = "/") -> HTMLResponse:
        return _page(request, next)

    @router.post("/login")
    async def log_in(request: Request) -> Response:
        if is_foreign(request.headers, request.scope["scheme"], browser=False):
            return problem(403, "Not allowed", "this login is of another site's page; open /login itself")
        address = request.client.host if request.client else ""
        waits = guesses.wait(address)
        if waits.wait:
            return too_many("too many wrong tokens", waits.retry_after)
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        token, wanted = form.get("token", [""])[0].strip(), form.get("next", ["/"])[0]
        identity = await run_in_threadpool(accounts.of_token, token)
        if identity is None:
            guesses.count(address)
            await run_in_threadpool(store.audit, Deed("unknown", "failed login", None, address, 401))
            return _page(request, wanted, "This token is wrong, expired or revoked.", 401)
        seconds = settings.session_days * 86_400
        session = await run_in_threadpool(accounts.log_in, identity, seconds)
        await run_in_threadpool(store.audit, _deed(identity, "login", address))
        answer = RedirectResponse(_root(request) + _local(wanted), 303, _HEADERS)
        answer.set_cookie(
            COOKIE,
            session.text,
            max_age=round(seconds),
            path=_root(request) or "/",
            secure=request.scope["scheme"] == "https",
            httponly=True,
            samesite="lax",
        )
        return answer

    @router.post("/logout")
    async def log_out(request: Request) -> Response:
        if is_foreign(request.headers, request.scope["scheme"], browser=False):
            return problem(403, "Not allowed", "this logout comes from another site's page")
        await run_in_threadpool(accounts.log_out, request.cookies.get(COOKIE, ""))
        answer = RedirectResponse(f"{_root(request)}/login", 303, _HEADERS)
        answer.delete_cookie(COOKIE, path=_root(request) or "/")
        return answer

    return router


def _page(request: Request, wanted: str, wrong: str = "", status: int = 200) -> HTMLResponse:
    text = _PAGE.get_template("login.html").render(root=_root(request), next=_local(wanted), wrong=wrong)
    return HTMLResponse(text, status, _HEADERS)


def _local(wanted: str) -> str:
    """The path to go on to, if it is one of this service's."""
    return wanted if _LOCAL_PATH.fullmatch(wanted) else "/"


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", ""))


def _deed(identity: Identity, action: str, address: str) -> Deed:
    return Deed(identity.name, action, identity.token_id, address, 303)
