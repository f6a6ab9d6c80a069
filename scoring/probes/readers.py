"""The readers of the files that list probes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from scoring.errors import InputError
from scoring.probes.probe import MAX_SEED, Probe


def load_probes(path: Path) -> list[Probe]:
    """The probes of a YAML or JSON file; see `expand_probes` for what may stand in it.

    Raises InputError that names the file for one that is missing, unreadable or wrong.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a YAML or JSON file of probes")
    try:
        text = path.read_text(encoding="utf-8")
        spec = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not readable as {path.suffix or 'YAML'}: {error}") from error
    return expand_probes(spec, str(path))


def expand_probes(spec: Any, source: str) -> list[Probe]:
    """The probes that parsed data describes.

    `spec` is one of: a list whose items are probes or A1111 payloads; one probe; one A1111 payload
    (`n_iter` x `batch_size` consecutive seeds); or `{defaults: {...}, prompts: [...], seeds: [...]}`, every
    prompt with every seed. Prompts are in A1111's syntax. `source` is named in errors. Raises InputError for
    anything else.
    """
    if isinstance(spec, list):
        probes = [probe for i, item in enumerate(spec) for probe in _expand_item(item, f"{source}[{i}]")]
    elif isinstance(spec, Mapping) and not spec.keys().isdisjoint(("defaults", "prompts", "seeds")):
        probes = _expand_product(spec, source)
    else:
        probes = _expand_item(spec, source)
    if not probes:
        raise InputError(f"{source}: no probes in it; list at least one")
    return probes


def _expand_item(item: Any, source: str) -> list[Probe]:
    if not isinstance(item, Mapping):
        raise InputError(f"{source}: a probe is a mapping with 'prompt' and 'seed', not {_shown(item)}")
    if any(key in _PAYLOAD_KEYS - Probe.model_fields.keys() for key in item):
        return _expand_payload(item, source)
    return [_probe(item, source)]


def _expand_product(spec: Mapping[Any, Any], source: str) -> list[Probe]:
    unknown = [str(key) for key in spec if key not in ("defaults", "prompts", "seeds")]
    if unknown:
        raise InputError(
            f"{source}: unknown {_keys(unknown)} beside defaults, prompts and seeds; "
            "what all probes share goes under 'defaults'"
        )
    defaults = spec.get("defaults", {})
    if not isinstance(defaults, Mapping):
        raise InputError(f"{source}: 'defaults' must be a mapping, not {_shown(defaults)}")
    for key in ("prompt", "seed"):
        if key in defaults:
            raise InputError(f"{source}: {key!r} does not belong in 'defaults'; put it in '{key}s'")
    prompts, seeds = (_listed(spec, key, source) for key in ("prompts", "seeds"))
    return [
        _probe({**defaults, "prompt": prompt, "seed": seed}, f"{source}: prompts[{i}] with seeds[{j}]")
        for i, prompt in enumerate(prompts)
        for j, seed in enumerate(seeds)
    ]


def _listed(spec: Mapping[Any, Any], key: str, source: str) -> Sequence[Any]:
    value = spec.get(key)
    if not isinstance(value, list) or not value:
        raise InputError(f"{source}: {key!r} must be a list with at least one entry, not {_shown(value)}")
    return value


# ---- A1111 payloads

_PAYLOAD_FIELDS = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "seed": "seed",
    "sampler_name": "sampler",
    "steps": "steps",
    "cfg_scale": "cfg_scale",
    "width": "width",
    "height": "height",
}
_PAYLOAD_OPTIONAL = {"negative_prompt"}
_PAYLOAD_COUNTS = ("n_iter", "batch_size")
# What must be off (any of the values given) because it would change the image and can't be done here.
_PAYLOAD_OFF: Mapping[str, tuple[object, ...]] = {
    "enable_hr": (False, None),
    "tiling": (False, None),
    "restore_faces": (False, None),
    "wildcard_type": ("none", "", None),
    "reverse_scoring": (False, None),
    "subseed_strength": (0, None),
    "seed_resize_from_w": (-1, 0, None),
    "seed_resize_from_h": (-1, 0, None),
    "styles": ([], None),
    "eta": (0, None),
    "s_churn": (0, None),
    "s_tmin": (0, None),
    "s_noise": (1, None),
    "s_min_uncond": (0, None),
    "refiner_checkpoint": ("", None),
    "override_settings": ({}, None),
    "script_name": ("", None),
    "script_args": ([], None),
    "alwayson_scripts": ({}, None),
}
# What has no effect as long as the keys above are off.
_PAYLOAD_IDLE = {
    "denoising_strength",
    "firstphase_width",
    "firstphase_height",
    "hr_scale",
    "hr_upscaler",
    "hr_second_pass_steps",
    "hr_resize_x",
    "hr_resize_y",
    "hr_sampler_name",
    "hr_prompt",
    "hr_negative_prompt",
    "subseed",
    "s_tmax",
    "refiner_switch_at",
    "override_settings_restore_afterwards",
    "send_images",
    "save_images",
    "do_not_save_samples",
    "do_not_save_grid",
}
_PAYLOAD_KEYS = {*_PAYLOAD_FIELDS, *_PAYLOAD_COUNTS, *_PAYLOAD_OFF, *_PAYLOAD_IDLE}


def _expand_payload(payload: Mapping[Any, Any], source: str) -> list[Probe]:
    unknown = [str(key) for key in payload if key not in _PAYLOAD_KEYS]
    if unknown:
        raise InputError(f"{source}: unknown {_keys(unknown)} in an A1111 payload; take them out")
    unsupported = [f"{key}={payload[key]!r}" for key in payload if not _is_off(key, payload[key])]
    if unsupported:
        raise InputError(f"{source}: not supported yet: {', '.join(unsupported)}; switch it off")
    missing = [key for key in _PAYLOAD_FIELDS if key not in payload and key not in _PAYLOAD_OPTIONAL]
    if missing:
        raise InputError(f"{source}: the A1111 payload lacks {_keys(missing)}; add what it was rendered with")
    fields = {ours: payload[theirs] for theirs, ours in _PAYLOAD_FIELDS.items() if theirs in payload}
    if fields["seed"] == -1:
        raise InputError(f"{source}: seed -1 is a new image every time; give a seed from 0 to {MAX_SEED}")
    first = _probe(fields, source)
    count = _count(payload, "n_iter", source) * _count(payload, "batch_size", source)
    return [first] + [_probe({**fields, "seed": first.seed + i}, source) for i in range(1, count)]


def _is_off(key: str, value: object) -> bool:
    return key not in _PAYLOAD_OFF or value in _PAYLOAD_OFF[key]


def _count(payload: Mapping[Any, Any], key: str, source: str) -> int:
    value = payload.get(key, 1)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1000:
        raise InputError(f"{source}: {key} must be a whole number from 1 to 1000, not {_shown(value)}")
    return value


# ---- errors


def _probe(fields: Mapping[Any, Any], source: str) -> Probe:
    try:
        return Probe.model_validate({str(key): value for key, value in fields.items()})
    except ValidationError as error:
        problems = "; ".join(_problem(details) for details in error.errors())
        raise InputError(f"{source}: {problems}") from error


def _problem(details: Any) -> str:
    name = ".".join(str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        return f"unknown key {name!r}; known keys: {', '.join(Probe.model_fields)}"
    if details["type"] == "missing":
        return f"{name!r} is missing; add it"
    return f"{name}: {details['msg'].removeprefix('Value error, ')} (given: {_shown(details['input'])})"


def _keys(names: Sequence[str]) -> str:
    return ("key " if len(names) == 1 else "keys ") + ", ".join(repr(name) for name in names)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
