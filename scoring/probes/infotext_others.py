"""The keys of an infotext that are no part of a probe, and what becomes of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from scoring.errors import InputError

PROVENANCE = (
    "Model",
    "Model hash",
    "VAE",
    "VAE hash",
    "Version",
    "User",
    "TI hashes",
    "Hashes",
    "Template",
    "Negative Template",
)
"""What tells of the making and is kept as it is."""

_REFUSED: Mapping[str, str] = {
    "Lora hashes": "a LoRA would change the weights that are searched",
    "Hypernet": "a hypernetwork would change the weights that are searched",
    "Hypernet strength": "a hypernetwork would change the weights that are searched",
    "Face restoration": "faces are not drawn anew here",
    "Tiling": "the UNet's borders are not joined here",
    "Refiner": "there is no second model here",
    "Refiner switch at": "there is no second model here",
    "Hires checkpoint": "there is no second model here",
    "Seed resize from": "noise is not resized here",
    "Init image hash": "the image was made from another one (img2img)",
    "Conditional mask weight": "the image was made from another one (inpainting)",
    "Mask blur": "the image was made from another one (inpainting)",
    "Image CFG scale": "the image was made from another one (instruct-pix2pix)",
}
_REFUSED_FAMILIES: Mapping[str, str] = {
    "ControlNet": "an image that guides another is not there",
    "AddNet": "a LoRA would change the weights that are searched",
    "RP ": "a picture is not split into regions here",
}
_OFF = ("", "False", "None", "0")

# Known, small in effect, and not done here.
_NOT_APPLIED = re.compile(
    r"Token merging.*|NGMS|Sigma (churn|tmin|tmax|noise)|Schedule (min sigma|max sigma|rho)|Skip Early CFG"
    r"|Beta schedule alpha|Beta schedule beta|Pad conds( v0)?|Discard penultimate sigma|SGM noise multiplier"
    r"|Noise Schedule|Emphasis|FP8 weight|Cache FP16 weight for LoRA|VAE (Encoder|Decoder)|UniPC .*"
    r"|Downcast alphas_cumprod|Upcast cross attention|DDIM Trailing|Auto Color Fix Strength|Hypertile.*"
    r"|ADetailer .*|Eta DDIM|Eta|Style Selector.*|Old prompt editing timelines"
    r"|Refiner switch by sampling steps"
)
_EMBEDDING_HASH, _LORA_HASH = "embed:", "lora:"


@dataclass(frozen=True)
class Others:
    """provenance, embeddings: as `Reading` has them. notes: what was not applied, and what is unknown."""

    provenance: Mapping[str, str]
    embeddings: tuple[str, ...]
    notes: tuple[str, ...]


def understood(settings: Mapping[str, str], source: str) -> Others:
    """Sort the settings that belong to no field of a probe.

    Raises InputError for one without which the image would show something else.
    """
    provenance: dict[str, str] = {}
    not_applied: list[str] = []
    unknown: list[str] = []
    for key, value in settings.items():
        if key in PROVENANCE:
            provenance[key] = value
        elif reason := _reason_against(key, value):
            raise InputError(f"{source}: {key}: {value!r} can't be done: {reason}; leave this image out")
        elif _NOT_APPLIED.fullmatch(key):
            not_applied.append(f"{key}: {value}")
        elif not _is_off(key, value):
            unknown.append(f"{key}: {value}")
    hashes = _hashes(provenance.get("Hashes", "{}"))
    if any(name.startswith(_LORA_HASH) for name in hashes):
        raise InputError(f"{source}: Hashes names a LoRA: {_REFUSED['Lora hashes']}; leave this image out")
    named = [part.split(":")[0].strip() for part in provenance.get("TI hashes", "").split(",")]
    embedded = [name.removeprefix(_EMBEDDING_HASH) for name in hashes if name.startswith(_EMBEDDING_HASH)]
    notes = []
    if not_applied:
        notes.append(f"not applied: {', '.join(not_applied)}")
    if unknown:
        notes.append(f"not understood, and so not applied: {', '.join(unknown)}")
    return Others(provenance, tuple(dict.fromkeys(filter(None, [*named, *embedded]))), tuple(notes))


def _reason_against(key: str, value: str) -> str | None:
    if value in _OFF:
        return None
    family = next((name for name in _REFUSED_FAMILIES if key.startswith(name)), None)
    return _REFUSED.get(key) or (_REFUSED_FAMILIES[family] if family else None)


def _is_off(key: str, value: str) -> bool:
    known = key in _REFUSED or any(key.startswith(name) for name in _REFUSED_FAMILIES)
    return known and value in _OFF


def _hashes(text: str) -> list[str]:
    """The names in "Hashes", which is a JSON object of hashes."""
    try:
        hashes = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return list(hashes) if isinstance(hashes, dict) else []
