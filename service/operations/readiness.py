"""What keeps an installation from doing its work, in words."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError

from service.db.store import Store
from service.disk import DiskNearlyFull, check_room
from service.settings import Settings

log = logging.getLogger(__name__)
KEPT_SECONDS = 2.0
SILENT_SECONDS = 30.0
"""A worker that told nothing for longer than this, or its lease, is not counted as alive."""


class Missing(BaseModel):
    """One thing that is missing."""

    what: str = Field(description="database, models, disk, worker, or scorers.", examples=["worker"])
    detail: str = Field(description="What is wrong with it, and what to do.")


class Readiness:
    """Looks at most every few seconds: whoever asks may be a stranger."""

    def __init__(self, settings: Settings, store: Store, kept_seconds: float = KEPT_SECONDS) -> None:
        self._settings, self._store, self._kept_seconds = settings, store, kept_seconds
        self._lock = threading.Lock()
        self._kept: list[Missing] = []
        self._until = 0.0

    def missing(self) -> list[Missing]:
        """All that is missing; nothing when the service is ready."""
        with self._lock:
            if time.monotonic() >= self._until:
                checks: tuple[tuple[str, Callable[[], Iterator[str]]], ...] = (
                    ("database", self._database),
                    ("models", self._models),
                    ("disk", self._disk),
                    ("worker", self._worker),
                    ("scorers", self._scorers),
                )
                self._kept = [Missing(what=what, detail=text) for what, check in checks for text in check()]
                self._until = time.monotonic() + self._kept_seconds
            return self._kept

    def _database(self) -> Iterator[str]:
        try:
            if not self._store.is_migrated():
                yield "its tables are of another version; restart this autombw, or upgrade it"
        except SQLAlchemyError as error:
            log.warning("not ready: %s", error)
            yield "it does not answer; bring it back"

    def _models(self) -> Iterator[str]:
        folder = self._settings.models_dir
        if not folder.is_dir():
            yield f"the models folder {folder} does not exist; create it or set models_dir"
        elif not os.access(folder, os.R_OK | os.X_OK):
            yield f"the models folder {folder} can't be read; permit it to the user of the service"

    def _disk(self) -> Iterator[str]:
        for folder in (self._settings.data_dir, self._settings.renders_dir, self._settings.outputs_dir):
            try:
                check_room(folder, 0, self._settings.reserve_mb * 1_000_000)
            except DiskNearlyFull as error:
                yield str(error)
                return
        existing = next(p for p in (self._settings.data_dir, *self._settings.data_dir.parents) if p.exists())
        if not os.access(existing, os.W_OK | os.X_OK):
            yield f"the data folder {self._settings.data_dir} can't be written; permit it"

    def _worker(self) -> Iterator[str]:
        try:
            silent = [worker.silent_seconds for worker in self._store.live_workers()]
            working = self._store.has_live_lease()
        except SQLAlchemyError:
            return  # the database is missing, and that is said
        patience = max(SILENT_SECONDS, self._settings.lease_seconds)
        if not working and not any(seconds <= patience for seconds in silent):
            last = f"the last one was heard {min(silent):.0f} s ago" if silent else "none was ever heard"
            yield f"no worker lives ({last}); start `autombw worker`, its log says why one ended"

    def _scorers(self) -> Iterator[str]:
        try:
            plans = self._store.active_plans()
        except SQLAlchemyError:
            return
        gone: dict[str, str] = {}
        for job, plan in plans:
            for spec in [*plan.get("scorers", []), *plan.get("watch", [])]:
                model = spec.get("model")
                if model and not Path(model).exists():
                    gone.setdefault(f"{spec['scorer']} ({model})", job)
        for scorer, job in gone.items():
            yield f"the weights of {scorer} are gone, and job {job} needs them; put them back"
