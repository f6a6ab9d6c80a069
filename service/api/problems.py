"""Errors as problem+json (RFC 9457): what was wrong with which thing, and what to do."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from scoring.errors import InputError
from service.errors import Conflict, NotFound, Stale, TooMany

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(default="about:blank", description="Always about:blank: `title` and `detail` say it.")
    title: str = Field(description="The kind of error.", examples=["Wrong input"])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str = Field(description="What was wrong with which input, and what to do.")
    errors: list[dict[str, str]] | None = Field(
        default=None, description="Each wrong field of a body, if several."
    )


RESPONSES: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "The named thing does not exist."},
    409: {"model": Problem, "description": "It does not fit the present state."},
    412: {"model": Problem, "description": "It has changed since it was read (If-Match)."},
    422: {"model": Problem, "description": "The input is wrong."},
}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of these error statuses."""
    return {status: RESPONSES[status] for status in statuses}


def install(app: FastAPI) -> None:
    """Answer every error of `app` as a problem."""
    app.add_exception_handler(InputError, lambda _, error: problem(422, "Wrong input", str(error)))
    app.add_exception_handler(NotFound, lambda _, error: problem(404, "Not found", str(error)))
    app.add_exception_handler(Conflict, lambda _, error: problem(409, "Conflict", str(error)))
    app.add_exception_handler(Stale, lambda _, error: problem(412, "Changed meanwhile", str(error)))
    app.add_exception_handler(
        TooMany, lambda _, error: problem(429, "Too many jobs", str(error), headers={"Retry-After": "60"})
    )
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(OperationalError, _database)
    app.add_exception_handler(Exception, _unexpected)


def problem(
    status: int,
    title: str,
    detail: str,
    errors: list[dict[str, str]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An answer that says what was wrong."""
    body = Problem(title=title, status=status, detail=detail, errors=errors).model_dump(exclude_none=True)
    return JSONResponse(body, status, headers, media_type=MEDIA_TYPE)


def _validation(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"where": ".".join(str(part) for part in e["loc"][1:]) or "body", "what": _what(e)}
        for e in error.errors()
    ]
    detail = "; ".join(f"{e['where']}: {e['what']}" for e in errors)
    return problem(422, "Wrong input", detail, errors)


def _what(error: Any) -> str:
    given = repr(error.get("input"))
    return f"{error['msg']} (got {given if len(given) <= 80 else given[:77] + '...'})"


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code < 400:
        return Response(status_code=error.status_code, headers=error.headers)
    detail = f"{request.method} {request.url.path}: {error.detail}; /docs lists what there is"
    return problem(error.status_code, str(error.detail), detail, headers=error.headers)


def _database(_request: Request, error: Exception) -> JSONResponse:
    log.error("database: %s", error)
    return problem(503, "Database not available", f"the database does not answer: {error.args[0]}; try again")


def _unexpected(_request: Request, error: Exception) -> JSONResponse:
    log.exception("unexpected error", exc_info=error)
    return problem(
        500, "Internal error", f"{type(error).__name__}: the service's log says more; please report it"
    )
