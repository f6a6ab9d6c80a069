"""A database of a test's own, with nothing in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.db.store import Store
from service.settings import Settings
from tests.unit.service.searched import settings_in


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of an installation that has nothing yet."""
    return settings_in(tmp_path)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """Its database."""
    store = Store(settings.database_url)
    yield store
    store.close()
