"""The HTTP application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from service.api import afterwards, components, events, jobs, models, problems
from service.api.context import Context
from service.catalog import Catalog
from service.db.store import Store
from service.settings import Settings

PAGE = Path(__file__).resolve().parents[1] / "dashboard" / "index.html"
DESCRIPTION = """
Merge Stable Diffusion checkpoints block by block, searched for the best images.

Submit a job with two models of the models folder, probes (the images that judge) and scorers; follow its
events; download the merged checkpoint and its recipe. Errors are `application/problem+json` (RFC 9457) and
say what was wrong with which input and what to do.
"""


def create_app(settings: Settings) -> FastAPI:
    """The API of one installation. Raises InputError when its database cannot be used."""
    store = Store(settings.database_url)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        store.close()

    app = FastAPI(
        title="autombw",
        version=models.own_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        openapi_tags=[
            {"name": "jobs", "description": "Merges that are searched, and what they produce."},
            {"name": "afterwards", "description": "Trials judged anew, reported, exported, collected."},
            {"name": "models", "description": "The checkpoints that can be merged."},
            {"name": "components", "description": "Checkpoints taken apart and put together."},
            {"name": "service", "description": "The service itself."},
        ],
    )
    app.state.context = Context(settings, store, Catalog(settings.models_dir))
    problems.install(app)
    app.include_router(jobs.router)
    app.include_router(events.router)
    app.include_router(afterwards.router)
    app.include_router(components.router)
    app.include_router(models.router)

    @app.get("/", include_in_schema=False)
    def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))

    return app
