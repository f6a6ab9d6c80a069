"""What the routes work with, found on the application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.catalog import Catalog
from service.db.store import Store
from service.settings import Settings


@dataclass(frozen=True)
class Context:
    """Settings, the store and the models folder of one application."""

    settings: Settings
    store: Store
    catalog: Catalog


def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Ctx = Annotated[Context, Depends(_context)]
