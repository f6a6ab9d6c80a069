"""The page, mounted beside the API in one application."""

from __future__ import annotations

import warnings

from fastapi import FastAPI
from nicegui import app as page_app
from nicegui import ui
from starlette.routing import Match, Mount
from starlette.types import Scope

from service.api.context import Context
from service.dashboard import (
    distance_panel,
    gallery_page,
    job_page,
    jobs_page,
    models_page,
    node_page,
    pictures,
    screening_page,
    submit_page,
    vote_page,
    workers_page,
)
from service.dashboard.layout import MARK
from service.dashboard.site import Site, set_site
from service.dashboard.snapshot import Snapshot

PAGES = (
    jobs_page,
    job_page,
    node_page,
    submit_page,
    vote_page,
    gallery_page,
    workers_page,
    models_page,
    screening_page,
)
"""Every module of pages registers its own when it is imported."""


class _BesideTheApi(Mount):
    """Everything but what can only be meant for the API: its 404 and 405 stay its own."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        path = str(scope.get("path", "")).removeprefix(str(scope.get("root_path", "")))
        asks_for_a_page = scope.get("method", "GET") in ("GET", "HEAD") and not path.startswith("/api/")
        if not asks_for_a_page and not path.startswith("/_nicegui"):
            return Match.NONE, {}
        match, child = super().matches(scope)
        if scope.get("root_path"):
            # NiceGUI would put the prefix before its links twice: once as the proxy said it, once as it was
            # believed.
            child["headers"] = [header for header in scope["headers"] if header[0] != b"x-forwarded-prefix"]
        return match, child


def mount_page(app: FastAPI, context: Context) -> None:
    """Serve the page at `/` of `app`. The page of this process shows the installation mounted last."""
    set_site(Site(context, Snapshot(context.store)))
    for part in (pictures, distance_panel, screening_page):
        app.include_router(part.router)
    # At its start NiceGUI looks at every object of the process, also at those that warn when looked at.
    warnings.filterwarnings("ignore", message=".*torch.distributed.reduce_op.*", category=FutureWarning)
    # NiceGUI has one application per process; tests make several of ours, one after the other.
    page_app.user_middleware.clear()
    page_app.middleware_stack = None
    ui.run_with(
        app,
        title="autombw",
        favicon=MARK,
        dark=None,
        language="en-US",
        tailwind=False,
        reconnect_timeout=10.0,
        binding_refresh_interval=None,
        message_history_length=200,
        show_welcome_message=False,
    )
    app.router.routes.pop()
    app.router.routes.append(_BesideTheApi("/", page_app))
