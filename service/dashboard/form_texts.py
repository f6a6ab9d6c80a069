"""What people write into the form, as values of a job file. All raise InputError that names `at`."""

from __future__ import annotations

from typing import Any

from scoring.data_text import parse_yaml
from scoring.display import shown
from scoring.errors import InputError
from scoring.probes.infotext_lines import split_infotexts


def whole(value: float | None, at: str) -> int | None:
    """A whole number, or none where the field is empty."""
    if value is None:
        return None
    if value != int(value):
        raise InputError(f"{at}: {value} is no whole number")
    return int(value)


def lines(text: str) -> list[str]:
    """The lines that have something on them."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def seeds(text: str, at: str) -> list[int]:
    """Whole numbers with commas or spaces between them."""
    try:
        found = [int(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise InputError(f"{at}: seeds are whole numbers with commas between, such as 1, 2, 3") from error
    if not found:
        raise InputError(f"{at}: give a seed or more, such as 1, 2, 3")
    return found


def infotexts(text: str) -> list[str]:
    """One text for every image, as A1111 writes them one below the other."""
    return (split_infotexts(text) or [text.strip()]) if text.strip() else []


def merges(text: str, at: str) -> list[dict[str, str]]:
    """A bracket of one merge a line: `01b = one + two`."""
    found = []
    for line in lines(text):
        o, equals, sides = line.partition("=")
        a, plus, b = sides.partition(" + ")
        if not (equals and plus and o.strip() and a.strip() and b.strip()):
            raise InputError(f"{at}: write one merge a line, such as 01b = one + two; {line!r} is none")
        found.append({"o": o.strip(), "a": a.strip(), "b": b.strip()})
    return found


def by_block(text: str, at: str, example: str) -> dict[str, Any]:
    """Values by block as docs/constraints.md writes them, commas or line ends between them."""
    joined = ", ".join(line.rstrip(",") for line in lines(text))
    try:
        found = parse_yaml(f"{{{joined}}}")
    except ValueError as error:
        raise InputError(f"{at}: write it as {example}; {shown(text)} cannot be read") from error
    if not isinstance(found, dict) or any(value is None for value in found.values()):
        raise InputError(f"{at}: write it as {example}; {shown(text)} names a block without its value")
    return {str(name): value for name, value in found.items()}
