"""The HTTP application."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware import Middleware

from scoring.hub import keep_off_hub
from service.access.accounts import Accounts
from service.access.guard import Guard
from service.access.identity import is_loopback
from service.access.login import login_router
from service.access.proxies import Proxies
from service.access.rates import GuessLimit
from service.api import (
    access,
    afterwards,
    components,
    description,
    events,
    gallery,
    jobs,
    models,
    operations,
    problems,
    votes,
)
from service.api.bodies import BodyLimits
from service.api.conditional import Conditional
from service.api.context import Context, own_version
from service.api.deadlines import Deadlines
from service.api.event_feed import EventFeeds
from service.api.idempotency import Idempotency
from service.api.kept import Kept
from service.api.news import News
from service.catalog import Catalog
from service.dashboard.mounting import mount_page
from service.db.engine import sqlite_file
from service.db.store import Store
from service.operations.http_metrics import HttpMetrics
from service.operations.metrics import registry_of
from service.operations.readiness import Readiness
from service.settings import Settings
from service.threads import QUICK, limit_threads

DESCRIPTION = """
Merge Stable Diffusion checkpoints block by block, searched for the best images.

Submit a job with two models of the models folder, probes (the images that judge) and scorers; follow its
events; download the merged checkpoint and its recipe. Errors are `application/problem+json` (RFC 9457) and
say what was wrong with which input and what to do.
"""


def create_app(settings: Settings) -> FastAPI:
    """The API of one installation. Raises InputError when its database cannot be used."""
    if not settings.allow_hub:
        keep_off_hub()
    store = Store(settings.database_url)
    news = News(store)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        # One that waits for a server's answer gives its turn to the next: those may be more.
        limit_threads(readers=QUICK if sqlite_file(settings.database_url) is None else 1)
        yield
        news.close()
        store.close()

    accounts = Accounts(store, always=settings.auth == "always" or not is_loopback(settings.host))
    guesses = GuessLimit()
    registry = registry_of(store)
    app: FastAPI = FastAPIOffline(
        title="autombw",
        version=own_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        openapi_tags=[
            {"name": "jobs", "description": "Merges that are searched, and what they produce."},
            {"name": "afterwards", "description": "Trials judged anew, reported, exported, collected."},
            {"name": "votes", "description": "People compare images, where a job's scorer is `human`."},
            {"name": "models", "description": "The checkpoints that can be merged."},
            {"name": "access", "description": "Tokens, and who did what with them."},
            {"name": "components", "description": "Checkpoints taken apart and put together."},
            {"name": "service", "description": "The service itself."},
        ],
        # The first sees a request first.
        middleware=[
            Middleware(HttpMetrics, registry=registry),
            Middleware(Deadlines, settings=settings),
            Middleware(Proxies, trusted=settings.trusted_proxies),
            Middleware(Guard, settings=settings, store=store, accounts=accounts, guesses=guesses),
            Middleware(Kept, news=news),
            Middleware(BodyLimits, max_bytes=round(settings.max_body_mb * 1e6)),
            Middleware(Idempotency, store=store),
            Middleware(Conditional),
        ],
    )
    stopping = threading.Event()
    feeds = EventFeeds(store, stopping)
    context = Context(settings, store, Catalog(settings.models_dir), feeds, stopping)
    app.state.context = context
    app.state.metrics, app.state.readiness = registry, Readiness(settings, store)
    problems.install(app)
    app.include_router(jobs.router)
    app.include_router(events.router)
    app.include_router(afterwards.router)
    app.include_router(components.router)
    app.include_router(models.router)
    app.include_router(votes.router)
    app.include_router(gallery.router)
    app.include_router(operations.router)
    app.include_router(access.router)
    app.include_router(login_router(settings, store, accounts, guesses))
    mount_page(app, context)
    description.install(app)
    return app
