"""What the routes work with, found on the application."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

from fastapi import Depends, Header, Request

from service.api.event_feed import EventFeeds
from service.catalog import Catalog
from service.db.store import Store
from service.errors import Stale
from service.settings import Settings


@dataclass(frozen=True)
class Context:
    """Settings, the store and the models folder of one application.

    stopping: set when the server is told to stop: what would go on for ever ends then.
    """

    settings: Settings
    store: Store
    catalog: Catalog
    feeds: EventFeeds
    stopping: threading.Event


async def _context(request: Request) -> Context:
    # Not a plain function: FastAPI would call it in a thread, for every request.
    context: Context = request.app.state.context
    return context


Ctx = Annotated[Context, Depends(_context)]


def job_etag(event_id: int) -> str:
    """The ETag of a job whose newest event this is: everything that a job shows changes with an event."""
    return f'"{event_id}.{own_version()}"'


def _to_change(
    context: Ctx,
    if_match: Annotated[
        str | None,
        Header(description="ETag of the job as it was read: refused with 412 if it has changed since."),
    ] = None,
) -> Store:
    if if_match is None or if_match.strip() == "*":
        return context.store
    seen = re.fullmatch(r'\s*(?:W/)?"(\d{1,18})\.[^"]*"\s*', if_match)
    if seen is None:
        raise Stale(f"If-Match: {if_match[:80]} is not the ETag of a job; GET the job for its present one")
    return context.store.having_seen(int(seen[1]))


ToChange = Annotated[Store, Depends(_to_change)]
"""The store, for a change to a job. It raises Stale if the job is not what If-Match says."""


@cache
def own_version() -> str:
    """The installed version of autombw."""
    try:
        return version("autombw")
    except PackageNotFoundError:
        return "0+unknown"
