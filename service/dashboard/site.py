"""What the pages work with: one installation per process, set when its application is made."""

from __future__ import annotations

from dataclasses import dataclass

from service.api.context import Context
from service.catalog import Catalog
from service.dashboard.snapshot import Snapshot
from service.db.store import Store
from service.settings import Settings


@dataclass(frozen=True)
class Site:
    """The installation that the pages show."""

    context: Context
    snapshot: Snapshot

    @property
    def store(self) -> Store:
        return self.context.store

    @property
    def settings(self) -> Settings:
        return self.context.settings

    @property
    def catalog(self) -> Catalog:
        return self.context.catalog


_current: list[Site] = []


def set_site(site: Site) -> None:
    """Make the pages of this process show this installation. NiceGUI has one application per process."""
    _current[:] = [site]


def site() -> Site:
    """The installation that the pages of this process show."""
    return _current[0]
