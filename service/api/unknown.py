"""What the API has no route for. The page is mounted on everything else and would answer it as a page."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]


def install(app: FastAPI) -> None:
    """Answer 404 and 405 below /api, once all routes of the API are there."""
    known = list(app.router.routes)

    def unknown(request: Request) -> None:
        allowed = sorted({method for route in known for method in _methods(route, request)})
        if allowed:
            raise HTTPException(405, headers={"Allow": ", ".join(allowed)})
        raise HTTPException(404)

    app.add_api_route("/api/{rest:path}", unknown, methods=METHODS, include_in_schema=False)


def _methods(route: BaseRoute, request: Request) -> set[str]:
    match, _ = route.matches(request.scope)
    return set(getattr(route, "methods", None) or ()) if match is Match.PARTIAL else set()
