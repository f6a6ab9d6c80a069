"""YAML, JSON and TOML that may come from anybody: read as plain data, within bounds.

A few bytes of YAML can stand for billions of entries (aliases of lists of aliases), and brackets in brackets
end the interpreter's stack. Here a document is walked as events before anything is built of it, so that what
it costs is known by then.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import yaml

MOST_CHARACTERS = 2_000_000
"""Of a YAML or TOML document: ten thousand probes with long prompts. Their parsers take seconds for more."""
MOST_JSON_CHARACTERS = 20_000_000
MOST_NODES = 500_000
"""Entries, keys and containers, each alias counted as all that it stands for."""
DEEPEST = 100

LONGEST_NUMBER = 400
"""Characters; a double at its smallest has some 330."""

_NUMBER = re.compile(r"[-+]?[0-9][0-9a-fA-F_xob:.]*$")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_yaml(text: str) -> Any:
    """What a YAML document holds: no objects, no code. Aliases are read as far as they stand for little.

    Raises ValueError that says what is wrong.
    """
    _check_length(text, MOST_CHARACTERS)
    try:
        _check_events(text)
        return yaml.load(text, Loader=_Loader)  # a safe loader, in C where there is one
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except (RecursionError, OverflowError, TypeError, AttributeError, LookupError) as error:
        # What its constructors raise on dates and numbers that are none, and on keys that hold themselves.
        raise ValueError(f"it holds a value that is none ({error})") from error


def parse_json(text: str | bytes) -> Any:
    """What a JSON document holds. Raises ValueError that says what is wrong."""
    _check_length(text, MOST_JSON_CHARACTERS)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error


def parse_toml(text: str) -> dict[str, Any]:
    """What a TOML document holds. Raises ValueError that says what is wrong."""
    _check_length(text, MOST_CHARACTERS)
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error


def _check_length(text: str | bytes, most: int) -> None:
    if len(text) > most:
        raise ValueError(f"it is {len(text):,} characters long, and {most:,} are read at most")


def _check_events(text: str) -> None:
    """Raise ValueError for a document that is too deep, endless, or too large with its aliases followed."""
    sizes: dict[str, int | None] = {}  # of what an anchor names; None while it is open
    open_: list[tuple[str | None, int]] = []  # anchor, nodes before it
    nodes = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor or "", 1)
            if size is None:
                raise ValueError(f"the alias *{event.anchor} stands within what it names")
            nodes += size
        elif isinstance(event, yaml.ScalarEvent):
            nodes += 1
            if len(event.value) > LONGEST_NUMBER and event.implicit[0] and _NUMBER.match(event.value):
                raise ValueError(f"it has a number of {len(event.value):,} digits")
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, nodes))
            nodes += 1
            if event.anchor:
                sizes[event.anchor] = None
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor:
                sizes[anchor] = nodes - before
        if nodes > MOST_NODES:
            raise ValueError(f"it stands for more than {MOST_NODES:,} values, its aliases counted")
        if len(open_) > DEEPEST:
            raise ValueError(f"it is nested deeper than {DEEPEST} levels")
