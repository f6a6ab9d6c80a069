"""Files that torch writes, opened as tensors alone, though a stranger may have made them."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import _weights_only_unpickler

from scoring.errors import InputError

LOAD_ERRORS = (
    *(pickle.UnpicklingError, RuntimeError, ValueError, TypeError, LookupError, EOFError, OSError),
    *(AttributeError, AssertionError, ArithmeticError, MemoryError, struct.error, zlib.error, ImportError),
)
"""What torch.load raises on a pickle that is refused or damaged."""
# data.pkl of a 5 GB checkpoint has 0.5 MB.
_MAX_PICKLE = 64_000_000
_AGAIN = "download or copy it again"


def load_tensors(path: Path, *, mmap: bool = False) -> Any:
    """What a file of torch's holds: tensors and plain values, never an object, and no code is run.

    mmap: leave the numbers in the file. Raises InputError for an archive that torch did not write, and one of
    LOAD_ERRORS for a file that is damaged or holds more than tensors.
    """
    with path.open("rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"  # as torch tells them apart
    if is_archive:
        _check_archive(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


class _Unpickler(_weights_only_unpickler.Unpickler):
    """Says in few words why it refuses.

    On every refusal torch looks for advice, by patterns that take the square of the length of what was said,
    and the file decides that length: 80 kB of a name took half a minute.
    """

    def load(self) -> Any:
        try:
            return super().load()  # type: ignore[no-untyped-call]
        except pickle.UnpicklingError as error:
            raise pickle.UnpicklingError(str(error)[:300]) from error


_weights_only_unpickler.Unpickler = _Unpickler  # type: ignore[misc]
# It would switch off `weights_only`, whatever the caller says.
os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)


def _check_archive(path: Path) -> None:
    # What unpacks to more than the file holds is a bomb; torch itself stores its members as they are.
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"{path.name} is a truncated or damaged {path.suffix} file ({error}); {_AGAIN}"
        ) from error
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    pickles = sum(member.file_size for member in members if member.filename.endswith(".pkl"))
    if packed or pickles > _MAX_PICKLE or sum(member.file_size for member in members) > path.stat().st_size:
        raise InputError(f"{path.name} is no file written by torch (packed or oversized members); {_AGAIN}")
