"""Text files that people bring along: other systems' line ends, byte order marks, and what is no text."""

from __future__ import annotations

import math
from pathlib import Path

from scoring.errors import InputError

# A history of 1,000 trials has 0.3 MB, a console log of days less.
_MOST_BYTES = 20_000_000


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number, text) of every line that is not blank, the first line being 1.

    Reads UTF-8 with and without a byte order mark, and the doubled carriage returns that Python's csv module
    writes to a text file on Windows. Raises InputError for what is missing, a directory, too large, or no
    text.
    """
    lines = enumerate(read_text(path).splitlines(), 1)
    return [(number, line.rstrip()) for number, line in lines if line.strip()]


def read_text(path: Path) -> str:
    """The text of a file with plain line ends. Raises InputError as `read_lines`."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path} is a directory; give a file")
    if path.stat().st_size > _MOST_BYTES:
        raise InputError(f"{path} has {path.stat().st_size / 1e6:.0f} MB, too much for such a text file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text in UTF-8 ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if "\0" in text:
        raise InputError(f"{path}: is no text, it holds zero bytes")
    return text.replace("\r\r\n", "\n").replace("\r\n", "\n")


def read_number(text: str, where: str, what: str) -> float:
    """A finite number. Raises InputError naming where it stands and what it should be."""
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(
            f"{where}: {what} is {text.strip()[:40]!r}, which is no number; correct it"
        ) from error
    if not math.isfinite(value):
        raise InputError(
            f"{where}: {what} is {text.strip()[:40]}; only finite numbers count, remove the line"
        )
    return value


def read_alpha(text: str, where: str, what: str) -> float:
    """A block weight in [0, 1]. Raises InputError naming where it stands."""
    value = read_number(text, where, what)
    if not 0.0 <= value <= 1.0:
        raise InputError(f"{where}: {what} is {value:g}; it must lie from 0 (all A) to 1 (all B)")
    return value
