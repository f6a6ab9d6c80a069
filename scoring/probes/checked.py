"""Parsed data to a probe, with every mistake told by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from scoring.display import shown
from scoring.errors import InputError
from scoring.probes.probe import DynamicThresholding, FreeU, FreeUStage, Hires, Probe

_EXTRA_NETWORK = re.compile(r"<(?:lora|lyco|hypernet):[^>]*>")
_PARTS: Mapping[str, type[BaseModel]] = {
    "hires": Hires,
    "freeu": FreeU,
    "stages": FreeUStage,
    "thresholding": DynamicThresholding,
}


def checked_probe(fields: Mapping[Any, Any], source: str) -> Probe:
    """The probe with these fields. Raises InputError that names `source` and everything wrong with them."""
    try:
        probe = Probe.model_validate({str(key): value for key, value in fields.items()})
    except ValidationError as error:
        problems = "; ".join(_problem(details) for details in error.errors())
        raise InputError(f"{source}: {problems}") from error
    _refuse_extra_networks(probe, source)
    return probe


def _refuse_extra_networks(probe: Probe, source: str) -> None:
    hires = probe.hires
    texts = [probe.prompt, probe.negative_prompt, *((hires.prompt, hires.negative_prompt) if hires else ())]
    if found := next((found for text in texts if (found := _EXTRA_NETWORK.search(text or ""))), None):
        raise InputError(
            f"{source}: the prompt wants {found[0]}, which would change the weights that are searched; "
            "take it out, or merge it into a model first"
        )


def _problem(details: Any) -> str:
    said = details["msg"].removeprefix("Value error, ")
    path = [str(part) for part in details["loc"]]
    name = ".".join(path)
    if not path:  # fields that contradict each other
        return str(said)
    if details["type"] == "extra_forbidden":
        part = next((_PARTS[part] for part in reversed(path[:-1]) if part in _PARTS), Probe)
        return f"unknown key {name!r}; known keys: {', '.join(part.model_fields)}"
    if details["type"] == "missing":
        return f"{name!r} is missing; add it"
    return f"{name}: {said} (given: {shown(details['input'])})"


def quoted_keys(names: Sequence[str]) -> str:
    """`key 'a'`, or `keys 'a', 'b'`."""
    return ("key " if len(names) == 1 else "keys ") + ", ".join(repr(name) for name in names)
