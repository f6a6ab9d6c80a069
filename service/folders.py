"""Files that are named, never given by a path."""

from __future__ import annotations

from pathlib import Path

from scoring.display import printable, shown
from scoring.errors import InputError


def exists(path: Path) -> bool:
    """Whether there is something of this name; never an error for a name that none can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def inside(name: str, folder: Path, field: str) -> Path:
    """The file that `name` means in `folder`. Raises InputError when it lies anywhere else."""
    try:
        path = (folder / name).resolve()
        path.is_file()
    except (OSError, ValueError) as error:
        # NUL, halves of surrogate pairs, names longer than a file system takes, links in a circle.
        raise InputError(f"{field}: {printable(shown(name))} is no file's name; correct it") from error
    if not path.is_relative_to(folder.resolve()):
        raise InputError(
            f"{field}: {name!r} lies outside {folder}; put the file there and name it relative to it"
        )
    return path
