"""The models folder as the service sees it: names, and inspections that are made once per file."""

from __future__ import annotations

import threading
from pathlib import Path

from optimizer.checkpoints import (
    Inspection,
    changed_at,
    inspect_checkpoint,
    list_models,
    resolve_model,
    size_of,
)
from optimizer.checkpoints.parts import Component
from optimizer.foreseen import check_finite
from scoring.errors import InputError


class Catalog:
    """Models by name. An inspection reads the whole file, so it is kept until the file changes."""

    def __init__(self, models_dir: Path) -> None:
        self.models_dir = models_dir
        self._known: dict[tuple[Path, int, int], Inspection] = {}
        self._finite: set[tuple[Path, int, int, Component]] = set()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """The names of all models, sorted."""
        return list_models(self.models_dir)

    def path(self, name: str) -> Path:
        """The file or diffusers folder of a model.

        Raises InputError on an unknown name or one that leaves the folder.
        """
        return resolve_model(self.models_dir, name)

    def header(self, name: str) -> Inspection:
        """What the header of a model's file tells, without statistics and hash. Raises InputError."""
        return inspect_checkpoint(self.path(name), statistics=False)

    def inspect(self, name: str) -> Inspection:
        """The inspection of a model, with statistics and hash. Raises InputError."""
        return self.inspect_file(self.path(name))

    def inspect_file(self, path: Path) -> Inspection:
        """The same of a file that need not lie in the models folder. Raises InputError."""
        if not path.exists():
            raise InputError(f"{path} is gone; put it back")
        key = (path, size_of(path), changed_at(path))
        with self._lock:
            known = self._known.get(key)
        if known is None:
            known = inspect_checkpoint(path)
            with self._lock:
                self._known[key] = known
        return known

    def check_finite(self, name: str, component: Component) -> None:
        """Raise InputError where a component of a model has NaN or Inf; looked at once per file."""
        path = self.path(name)
        key = (path, size_of(path), changed_at(path), component)
        if key not in self._finite:
            check_finite(path, component)
            self._finite.add(key)


def digest(inspection: Inspection) -> str:
    """The sha256 of an inspection that was made with statistics."""
    if inspection.sha256 is None:
        raise ValueError(f"{inspection.name} was inspected without statistics and has no hash")
    return inspection.sha256
