"""The zip archives that torch writes, looked at before torch opens one of a stranger's."""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from pathlib import Path

from scoring.errors import InputError

LOAD_ERRORS = (
    *(pickle.UnpicklingError, RuntimeError, ValueError, TypeError, LookupError, EOFError, OSError),
    *(AttributeError, AssertionError, ArithmeticError, MemoryError, struct.error, zlib.error, ImportError),
)
"""What torch.load raises on a pickle that is refused or damaged."""
# data.pkl of a 5 GB checkpoint has 0.5 MB.
_MAX_PICKLE = 64_000_000
_AGAIN = "download or copy it again"


def check_archive(path: Path) -> None:
    """Raise InputError for an archive that is damaged or that torch did not write: what unpacks to more than
    the file holds is a bomb, and torch itself stores its members as they are."""
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
