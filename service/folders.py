"""Files that are named, never given by a path."""

from __future__ import annotations

from pathlib import Path

from scoring.errors import InputError


def inside(name: str, folder: Path, field: str) -> Path:
    """The file that `name` means in `folder`. Raises InputError when it lies anywhere else."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(
            f"{field}: {name!r} lies outside {folder}; put the file there and name it relative to it"
        )
    return path
