"""Text of others, shown where it must not do anything: on a terminal, in a log, in a spreadsheet."""

from __future__ import annotations

import re

# Control characters (C0, DEL, C1: a terminal obeys them), line and paragraph separators, what turns the
# direction of writing (a name can hide its ending with it), and halves of surrogate pairs.
_ACTING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def printable(text: str, *, lines: bool = False) -> str:
    """The text with every character that acts instead of showing written as an escape (`\\x1b`).

    lines: line breaks and tabs stay.
    """
    kept = "\n\t" if lines else ""
    return _ACTING.sub(lambda found: found[0] if found[0] in kept else _escaped(found[0]), text)


def cell(value: object) -> object:
    """A cell of a CSV file: a text that a spreadsheet would take for a formula gets a `'` before it; numbers
    stay what they are.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def shown(value: object) -> str:
    """A value as an error message shows it: 80 characters at most."""
    try:
        text = repr(value[:160] if isinstance(value, str) else value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
