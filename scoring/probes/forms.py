"""The forms that probes have in parsed YAML, JSON or TOML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scoring.display import shown
from scoring.errors import InputError
from scoring.probes.checked import checked_probe, quoted_keys
from scoring.probes.infotext_reader import read_infotext
from scoring.probes.payload import MARKS, read_payload
from scoring.probes.places import Places
from scoring.probes.reading import Note, Reading, check_count, joined
from scoring.probes.wildcards import expanded, wildcard_in, wildcard_mode

_PRODUCT = ("defaults", "prompts", "seeds")


def read_probes(spec: Any, source: str, places: Places | None = None) -> Reading:
    """The probes that parsed data describes.

    `spec` is one of these, or a list of them: one probe; `{defaults: {...}, prompts: [...], seeds: [...]}`,
    every prompt with every seed; an A1111 payload; `{infotext: "..."}`, an A1111 infotext. Beside a probe's
    own fields there may be `wildcards: none | random | combinatorial`. `source` is named in errors. Raises
    InputError for anything else.
    """
    places = places or Places()
    if isinstance(spec, list):
        check_count(len(spec), source)
        reading = joined([_read(item, f"{source}[{i}]", places) for i, item in enumerate(spec)])
    else:
        reading = _read(spec, source, places)
    if not reading.probes:
        raise InputError(f"{source}: no probes in it; list at least one")
    return reading


def _read(item: Any, source: str, places: Places) -> Reading:
    if not isinstance(item, Mapping):
        raise InputError(f"{source}: a probe is a mapping with 'prompt' and 'seed', not {shown(item)}")
    fields = {str(key): value for key, value in item.items()}
    if not fields.keys().isdisjoint(_PRODUCT):
        return _read_product(fields, source, places)
    if "infotext" in fields and not fields.get("sampler_name"):
        return _read_infotext(fields, source)
    if not fields.keys().isdisjoint(MARKS):
        return read_payload(fields, source, places)
    return _read_probe(fields, source, places)


def _read_infotext(fields: Mapping[str, Any], source: str) -> Reading:
    text, others = fields["infotext"], [key for key in fields if key != "infotext"]
    if others:
        raise InputError(
            f"{source}: {quoted_keys(others)} beside 'infotext', which says it all; change that text instead"
        )
    if not isinstance(text, str):
        raise InputError(f"{source}: 'infotext' must be a text, not {shown(text)}")
    return read_infotext(text, source)


def _read_probe(fields: Mapping[str, Any], source: str, places: Places) -> Reading:
    own = {key: value for key, value in fields.items() if key != "wildcards"}
    notes: tuple[Note, ...] = ()
    if own.get("seed") == -1:
        own["seed"] = places.drawn_seed()
        notes = (Note(source, f"seed -1: drawn {own['seed']}"),)
    found = wildcard_in(own)
    if found and "wildcards" not in fields:
        raise InputError(
            f"{source}: the prompt holds {shown(found)}; say what it is: wildcards: random, combinatorial, "
            "or none for text that stays as it is"
        )
    mode = wildcard_mode(fields.get("wildcards"), source)
    return Reading(tuple(expanded(checked_probe(own, source), mode, places.wildcards, source)), notes)


def _read_product(spec: Mapping[str, Any], source: str, places: Places) -> Reading:
    unknown = [key for key in spec if key not in _PRODUCT]
    if unknown:
        raise InputError(
            f"{source}: unknown {quoted_keys(unknown)} beside defaults, prompts and seeds; "
            "what all probes share goes under 'defaults'"
        )
    defaults = spec.get("defaults", {})
    if not isinstance(defaults, Mapping):
        raise InputError(f"{source}: 'defaults' must be a mapping, not {shown(defaults)}")
    for key in ("prompt", "seed"):
        if key in defaults:
            raise InputError(f"{source}: {key!r} does not belong in 'defaults'; put it in '{key}s'")
    shared = {str(key): value for key, value in defaults.items()}
    prompts, seeds = (_listed(spec, key, source) for key in ("prompts", "seeds"))
    check_count(len(prompts) * len(seeds), source)
    return joined(
        [
            _read_probe(
                {**shared, "prompt": prompt, "seed": seed}, f"{source}: prompts[{i}] with seeds[{j}]", places
            )
            for i, prompt in enumerate(prompts)
            for j, seed in enumerate(seeds)
        ]
    )


def _listed(spec: Mapping[str, Any], key: str, source: str) -> Sequence[Any]:
    value = spec.get(key)
    if not isinstance(value, list) or not value:
        raise InputError(f"{source}: {key!r} must be a list with at least one entry, not {shown(value)}")
    return value
