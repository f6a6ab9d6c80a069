"""The manifest of a backup: every file that the database names, and what there was of it."""

from __future__ import annotations

import hashlib
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from scoring.errors import InputError
from service.settings import describe

MANIFEST = "manifest.json"


class FileState(StrEnum):
    PRESENT = "present"
    MISSING = "missing"
    DAMAGED = "damaged"  # cannot be read, or is not what its hash says


class NamedFile(BaseModel):
    """A render or an output that the database names."""

    # A manifest may come from anywhere, and must not name a file outside of the data folder.
    path: str = Field(
        pattern=r"^(renders/[0-9a-f]{2}/[0-9a-f]{64}\.png|outputs/[^/\\\x00-\x1f]+\.safetensors)$"
    )
    sha256: str
    size: int | None = Field(description="Bytes; null where there is nothing to be read.")
    state: FileState


class Manifest(BaseModel):
    """What a backup holds."""

    format: Literal[1] = 1
    created_at: datetime
    database_url: str = Field(description="Where the database was; the password is hidden.")
    database_sha256: str | None = Field(description="Of the copy; null where PostgreSQL keeps the data.")
    files: list[NamedFile]

    def not_present(self) -> list[NamedFile]:
        """The files that are missing or damaged."""
        return [file for file in self.files if file.state is not FileState.PRESENT]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a backup. Raises InputError where there is none that can be read."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{folder} is no backup, or one that was not finished: no {MANIFEST} can be read in it; give the "
            "folder that `autombw backup` made"
        ) from error
    except ValidationError as error:
        raise InputError(
            f"{folder / MANIFEST} is damaged or of a newer autombw: {describe(error)}; use another backup"
        ) from error


def look_at(folder: Path, path: str, sha256: str) -> NamedFile:
    """What there is of a file in a data folder or a backup; all of it is read."""
    file = folder / path
    try:
        size = file.stat().st_size
        state = FileState.PRESENT if sha256_of(file) == sha256 else FileState.DAMAGED
    except FileNotFoundError:
        size, state = None, FileState.MISSING
    except OSError:
        size, state = None, FileState.DAMAGED
    return NamedFile(path=path, sha256=sha256, size=size, state=state)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
