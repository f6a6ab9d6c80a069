"""A1111 infotexts to probes: every setting is applied, kept as provenance, refused by name, or reported."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from scoring.display import shown
from scoring.errors import InputError
from scoring.probes.a1111 import (
    NO_RNG,
    eta_key,
    freeu_share,
    freeu_stages,
    legacy_first_pass,
    rng_named,
    sampler_and_schedule,
)
from scoring.probes.checked import checked_probe, quoted_keys
from scoring.probes.infotext_lines import split_infotext
from scoring.probes.infotext_others import understood
from scoring.probes.probe import DynamicThresholding, Hires, ScaleMode
from scoring.probes.reading import Note, Reading

_ALWAYS = ("Steps", "Sampler", "CFG scale", "Seed", "Size")
_OTHER_SPELLINGS = {
    "CFG Rescale φ": "CFG Rescale",
    "CFG rescale": "CFG Rescale",
    "Hires CFG": "Hires CFG Scale",
    "Hires CFG scale": "Hires CFG Scale",
    "Power scheduler value": "Scheduler value",
}
_HIRES = ("Hires upscale", "Hires resize", "Hires upscaler", "Hires steps", "First pass size")
_SAME = ("Use same sampler", "Use same scheduler")
_SIZE = re.compile(r"(\d+)x(\d+)")
_VERSION = re.compile(r"v?(\d+)\.(\d+)")
_EDITING = re.compile(r"\[[^\[\]]*:\s*[\d.]+\s*\]")
_FLAGS = {"true": True, "false": False}


def read_infotext(text: str, source: str = "infotext") -> Reading:
    """The one probe of an infotext.

    Raises InputError, naming `source`, for a text that is none or was cut, a value that can't be, and a
    setting without which the image would show something else.
    """
    infotext = split_infotext(text, source)
    settings = _Settings(infotext.settings, source)
    settings.require(_ALWAYS)
    settings.notes += [f"not understood: {leftover!r}" for leftover in infotext.leftovers]
    sampler, schedule = sampler_and_schedule(settings.text("Sampler"), settings.text("Schedule type"), source)
    steps = settings.whole("Steps")
    fields = {
        "prompt": infotext.prompt,
        "negative_prompt": infotext.negative_prompt,
        "seed": settings.whole("Seed"),
        "sampler": sampler,
        "schedule": schedule,
        "steps": steps,
        "cfg_scale": settings.decimal("CFG scale"),
        **_sizes(settings),
        "clip_skip": max(1, settings.whole("Clip skip", 1)),
        "rng": _rng(settings),
        "eta": _eta(settings, str(sampler)),
        "ensd": settings.whole("ENSD", 0),
        "variation_seed": settings.whole("Variation seed", 0),
        "variation_strength": settings.decimal("Variation seed strength", 0.0),
        "cfg_rescale": settings.decimal("CFG Rescale", 0.0),
        "thresholding": _thresholding(settings),
        "freeu": _freeu(settings, steps),
    }
    others = understood(settings.rest(), source)
    if "Model hash" in others.provenance and "Version" not in others.provenance:
        settings.notes.append("ends without A1111's Version: if it was cut, settings are missing")
    if _edited_before_1_6(infotext.prompt, others.provenance.get("Version", "")):
        settings.notes.append(
            "made before A1111 1.6: in prompt editing, numbers with a point from 1 on were steps, and the "
            "second pass of hires fix began anew"
        )
    return Reading(
        probes=(checked_probe(fields, source),),
        notes=tuple(Note(source, text) for text in (*settings.notes, *others.notes)),
        counted_by_a1111=frozenset([0]),
        embeddings=others.embeddings,
        provenance=(others.provenance,) if others.provenance else (),
    )


def _edited_before_1_6(prompt: str, version: str) -> bool:
    found = _VERSION.match(version)
    return bool(found and (int(found[1]), int(found[2])) < (1, 6) and _EDITING.search(prompt))


class _Settings:
    """The settings of an infotext. What is asked for is struck off, the rest remains; what there is to say
    is noted.

    Raises InputError, naming the source and the key, for a value of another kind.
    """

    def __init__(self, settings: Mapping[str, str], source: str) -> None:
        self._left = {_OTHER_SPELLINGS.get(key, key): value for key, value in settings.items()}
        self.source = source
        self.notes: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def require(self, keys: Iterable[str]) -> None:
        missing = [key for key in keys if key not in self._left]
        if missing:
            raise InputError(
                f"{self.source}: the infotext lacks {quoted_keys(missing)}, which A1111 always writes: "
                "it was cut, or is another program's; copy all of it"
            )

    def rest(self) -> dict[str, str]:
        return dict(self._left)

    def text(self, key: str, default: str | None = None) -> str | None:
        return self._left.pop(key, default)

    def whole(self, key: str, default: int | None = None) -> Any:
        return self.parsed(key, int, "a whole number", default)

    def decimal(self, key: str, default: float | None = None) -> Any:
        return self.parsed(key, float, "a number", default)

    def flag(self, key: str, default: bool) -> Any:
        return self.parsed(key, lambda text: _FLAGS[text.lower()], "True or False", default)

    def size(self, key: str) -> Any:
        return self.parsed(key, _size, "a size such as 512x512", None)

    def mode(self, key: str) -> Any:
        modes = {mode: mode for mode in get_args(ScaleMode)}
        return self.parsed(key, modes.__getitem__, f"one of {', '.join(modes)}", "Constant")

    def parsed(self, key: str, parse: Callable[[str], Any], kind: str, default: Any) -> Any:
        if key not in self._left:
            return default
        value = self._left.pop(key)
        try:
            return parse(value)
        except (ValueError, KeyError, RecursionError) as error:
            raise InputError(f"{self.source}: {key}: {shown(value)} is not {kind}; correct it") from error


def _size(text: str) -> tuple[int, int]:
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(text)
    return int(found[1]), int(found[2])


def _sizes(settings: _Settings) -> dict[str, Any]:
    """width, height and hires. Infotexts of before 2023 name the size of the first pass beside the last."""
    width, height = settings.size("Size")
    hires = _hires(settings)
    first_pass = settings.size("First pass size")
    if hires is None or first_pass is None:
        return {"width": width, "height": height, "hires": hires}
    hires |= {"resize_x": width, "resize_y": height}
    width, height = first_pass if all(first_pass) else legacy_first_pass(width, height)
    return {"width": width, "height": height, "hires": hires}


def _hires(settings: _Settings) -> dict[str, Any] | None:
    hired = any(key in settings for key in _HIRES)
    strength = settings.decimal("Denoising strength")
    plain = Hires()
    if not hired:
        if strength is not None:
            settings.notes.append(
                f"Denoising strength: {strength} has no effect without hires fix; an image that A1111 made "
                "from another one (img2img) can't be made here"
            )
        return None
    if strength is None:
        settings.notes.append(f"hires fix without a denoising strength: {plain.denoising_strength} is taken")
    sampler, schedule = (
        None if named in _SAME else named
        for named in (settings.text("Hires sampler"), settings.text("Hires schedule type"))
    )
    sampler, schedule = sampler_and_schedule(sampler, schedule, settings.source)
    resize_x, resize_y = settings.size("Hires resize") or (0, 0)
    return {
        "upscaler": settings.text("Hires upscaler", plain.upscaler),
        "scale": settings.decimal("Hires upscale", plain.scale),
        "resize_x": resize_x,
        "resize_y": resize_y,
        "steps": settings.whole("Hires steps", 0),
        "denoising_strength": plain.denoising_strength if strength is None else strength,
        "sampler": sampler,
        "schedule": schedule,
        "cfg_scale": settings.decimal("Hires CFG Scale"),
        "prompt": settings.text("Hires prompt"),
        "negative_prompt": settings.text("Hires negative prompt"),
    }


def _rng(settings: _Settings) -> str:
    if "RNG" not in settings:
        settings.notes.append(NO_RNG)
    return rng_named(settings.text("RNG", "GPU"), settings.source)


def _eta(settings: _Settings, sampler: str) -> Any:
    # Before version 1.6 there was one name for all samplers.
    return settings.decimal(eta_key(sampler) if eta_key(sampler) in settings else "Eta")


def _thresholding(settings: _Settings) -> dict[str, Any] | None:
    if not settings.flag("Dynamic thresholding enabled", False):
        return None
    plain = DynamicThresholding()
    return {
        "mimic_scale": settings.decimal("Mimic scale", plain.mimic_scale),
        "threshold_percentile": settings.decimal("Threshold percentile", plain.threshold_percentile),
        "mimic_mode": settings.mode("Mimic mode"),
        "mimic_scale_min": settings.decimal("Mimic scale minimum", plain.mimic_scale_min),
        "cfg_mode": settings.mode("CFG mode"),
        "cfg_scale_min": settings.decimal("CFG scale minimum", plain.cfg_scale_min),
        "sched_value": settings.decimal("Scheduler value", plain.sched_value),
        "separate_feature_channels": settings.flag("Separate Feature Channels", True),
        "scaling_startpoint": settings.text("Scaling Startpoint", plain.scaling_startpoint),
        "variability": settings.text("Variability Measure", plain.variability),
        "interpolate_phi": settings.decimal("Interpolate Phi", plain.interpolate_phi),
    }


def _freeu(settings: _Settings, steps: int) -> dict[str, Any] | None:
    if "FreeU Stages" not in settings:
        return None
    stages = settings.parsed("FreeU Stages", json.loads, "JSON", None)
    shares = settings.parsed("FreeU Schedule", _three, "three numbers", ("0.0", "1.0", "0.0"))
    start, stop, transition = (freeu_share(share, steps, settings.source) for share in shares)
    return {
        "stages": freeu_stages(stages, settings.source),
        "version": settings.whole("FreeU Version", 1),
        "start": start,
        "stop": stop,
        "transition": transition,
    }


def _three(text: str) -> tuple[str, str, str]:
    first, second, third = (part.strip() for part in text.split(","))
    return first, second, third
