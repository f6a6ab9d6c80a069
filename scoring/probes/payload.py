"""Payloads of A1111's API (`/sdapi/v1/txt2img`), and so of auto-MBW-rt, to probes.

The keys and what is taken where one is missing are those of `StableDiffusionProcessingTxt2Img` in
`modules/processing.py` of stable-diffusion-webui.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scoring.display import shown
from scoring.errors import InputError
from scoring.probes.a1111 import NO_RNG, rng_named, sampler_and_schedule
from scoring.probes.checked import checked_probe, quoted_keys
from scoring.probes.payload_options import Options, read_options
from scoring.probes.payload_scripts import read_scripts
from scoring.probes.places import Places
from scoring.probes.probe import MAX_SEED, Probe
from scoring.probes.reading import Note, Reading, check_count
from scoring.probes.wildcards import expanded, wildcard_in, wildcard_mode

_DEFAULTS: Mapping[str, Any] = {
    "sampler_name": "Euler",
    "steps": 50,
    "cfg_scale": 7.0,
    "width": 512,
    "height": 512,
}
_HIRES_DEFAULTS: Mapping[str, Any] = {"hr_scale": 2.0, "hr_upscaler": "Latent", "denoising_strength": 0.75}
_READ = {
    *_DEFAULTS,
    *_HIRES_DEFAULTS,
    "prompt",
    "negative_prompt",
    "seed",
    "sampler_index",
    "scheduler",
    "n_iter",
    "batch_size",
    "eta",
    "subseed",
    "subseed_strength",
    "enable_hr",
    "firstphase_width",
    "firstphase_height",
    "hr_second_pass_steps",
    "hr_resize_x",
    "hr_resize_y",
    "hr_sampler_name",
    "hr_scheduler",
    "hr_prompt",
    "hr_negative_prompt",
    "hr_cfg",
    "alwayson_scripts",
    "override_settings",
    "wildcard_type",
    "reverse_scoring",
}
# What must be off (any of the values given): it would change the image and can't be done here.
_OFF: Mapping[str, tuple[object, ...]] = {
    "tiling": (False, None),
    "restore_faces": (False, None),
    "seed_resize_from_w": (-1, 0, None),
    "seed_resize_from_h": (-1, 0, None),
    "styles": ([], None),
    "s_churn": (0, None),
    "s_tmin": (0, None),
    "s_noise": (1, None),
    "s_min_uncond": (0, None),
    "refiner_checkpoint": ("", "None", None),
    "hr_checkpoint_name": ("", "Use same checkpoint", None),
    "firstpass_image": (None,),
    "init_images": ([], None),
    "infotext": ("", None),
    "script_name": ("", None),
    "script_args": ([], None),
}
# What says nothing of the image, or nothing as long as the above is off.
_IDLE = {
    "s_tmax",
    "refiner_switch_at",
    "override_settings_restore_afterwards",
    "send_images",
    "save_images",
    "do_not_save_samples",
    "do_not_save_grid",
    "do_not_reload_embeddings",
    "force_task_id",
    "comments",
}
PAYLOAD_KEYS = frozenset({*_READ, *_OFF, *_IDLE})
MARKS = PAYLOAD_KEYS - Probe.model_fields.keys()
"""The keys that tell a payload from a probe of ours."""


def read_payload(payload: Mapping[str, Any], source: str, places: Places) -> Reading:
    """The probes of a payload: `n_iter` x `batch_size` of them, with consecutive seeds.

    Raises InputError, naming `source`, for a key that is unknown or can't be done here, and for wrong values.
    """
    unknown = [key for key in payload if key not in PAYLOAD_KEYS]
    if unknown:
        raise InputError(f"{source}: unknown {quoted_keys(unknown)} in an A1111 payload; take them out")
    _refuse(payload, source)
    given = {key: value for key, value in payload.items() if value is not None}
    options = read_options(given.get("override_settings", {}), source)
    asked = _Payload(given, options, source, places)
    mode = wildcard_mode(given.get("wildcard_type"), source)
    if mode == "none" and (found := wildcard_in(given)):
        asked.notes.append(f"wildcard_type is none: {shown(found)} in the prompt stays as it is")
    probes = [
        probe
        for fields in asked.numbered()
        for probe in expanded(checked_probe(fields, source), mode, places.wildcards, source)
    ]
    notes = [*options.notes, *([] if options.rng else [NO_RNG]), *asked.notes]
    return Reading(
        probes=tuple(probes),
        notes=tuple(Note(source, note) for note in notes),
        counted_by_a1111=frozenset(range(len(probes))),
        provenance=(options.provenance,) if options.provenance else (),
    )


def _refuse(payload: Mapping[str, Any], source: str) -> None:
    if payload.get("reverse_scoring"):
        raise InputError(
            f"{source}: reverse_scoring=True: here it is a scorer that counts downwards, not a payload; set "
            "`reverse: true` for the scorer in the job and take this key out"
        )
    wanted = [f"{key}={shown(payload[key])}" for key in payload if not _is_off(key, payload[key])]
    if wanted:
        raise InputError(f"{source}: can't be done: {', '.join(wanted)}; switch it off")
    if payload.get("prompt") is None:
        raise InputError(f"{source}: the A1111 payload lacks key 'prompt'; add it")


def _is_off(key: str, value: object) -> bool:
    return key not in _OFF or value in _OFF[key]


def _other(name: Any, same: str) -> Any:
    return None if name in ("", same) else name


@dataclass
class _Payload:
    """A payload without its nulls. notes: what there is to say of it; they grow while it is read."""

    given: Mapping[str, Any]
    options: Options
    source: str
    places: Places
    notes: list[str] = field(default_factory=list)

    def numbered(self) -> list[dict[str, Any]]:
        """The fields of a probe once per image, with their seeds: consecutive, or, where a variation is asked
        for, one seed and consecutive seeds of the variation."""
        count = self._count("n_iter") * self._count("batch_size")
        check_count(count, self.source)
        strength = self.given.get("subseed_strength", 0.0)
        fields, seed = self._fields(), self._seed("seed", count)
        if not strength:
            return [{**fields, "seed": seed + i} for i in range(count)]
        varied = self._seed("subseed", count)
        return [
            {**fields, "seed": seed, "variation_seed": varied + i, "variation_strength": strength}
            for i in range(count)
        ]

    def _fields(self) -> dict[str, Any]:
        given = dict(self.given)
        if "sampler_index" in given:
            given.setdefault("sampler_name", given["sampler_index"])
        full = self._completed(given, _DEFAULTS)
        sampler, schedule = sampler_and_schedule(
            full["sampler_name"], full.get("scheduler", self.options.schedule), self.source
        )
        return {
            "prompt": full["prompt"],
            "negative_prompt": full.get("negative_prompt", ""),
            "sampler": sampler,
            "schedule": schedule,
            "steps": full["steps"],
            "cfg_scale": full["cfg_scale"],
            **self._sizes(full["width"], full["height"]),
            "clip_skip": self.options.clip_skip,
            "rng": self.options.rng or rng_named("GPU", self.source),
            "eta": full.get("eta", self.options.eta(str(sampler))),
            "ensd": self.options.ensd,
            **read_scripts(full.get("alwayson_scripts", {}), full["steps"], self.source),
        }

    def _sizes(self, width: Any, height: Any) -> dict[str, Any]:
        """width, height and hires. Before 2023, A1111's width and height were the size of the result, and
        those of the `firstphase` that of the first pass."""
        first = self.given.get("firstphase_width", 0), self.given.get("firstphase_height", 0)
        if first == (0, 0):
            return {"width": width, "height": height, "hires": self._hires()}
        hires = self._hires()
        if hires is None or 0 in first:
            raise InputError(
                f"{self.source}: firstphase_width and firstphase_height are the size of the first pass of "
                "hires fix; set both to 0, or give both and set enable_hr to true"
            )
        self.notes.append(
            f"firstphase_width, firstphase_height: the first pass is {first[0]} x {first[1]}, the result "
            f"{width} x {height}; hr_scale and hr_resize are not used"
        )
        hires |= {"resize_x": width, "resize_y": height}
        return {"width": first[0], "height": first[1], "hires": hires}

    def _hires(self) -> dict[str, Any] | None:
        if not self.given.get("enable_hr"):
            return None
        full = self._completed(self.given, _HIRES_DEFAULTS)
        sampler, schedule = sampler_and_schedule(
            _other(full.get("hr_sampler_name"), "Use same sampler"),
            _other(full.get("hr_scheduler"), "Use same scheduler"),
            self.source,
        )
        return {
            "upscaler": full["hr_upscaler"],
            "scale": full["hr_scale"],
            "resize_x": full.get("hr_resize_x", 0),
            "resize_y": full.get("hr_resize_y", 0),
            "steps": full.get("hr_second_pass_steps", 0),
            "denoising_strength": full["denoising_strength"],
            "sampler": sampler,
            "schedule": schedule,
            "cfg_scale": full.get("hr_cfg"),
            "prompt": full.get("hr_prompt") or None,
            "negative_prompt": full.get("hr_negative_prompt") or None,
        }

    def _completed(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
        taken = [f"{key} {value}" for key, value in defaults.items() if key not in given]
        if taken:
            self.notes.append(f"not given, and so A1111's own: {', '.join(taken)}")
        return {**defaults, **given}

    def _seed(self, key: str, count: int) -> int:
        seed = self.given.get(key, -1)
        if seed in (-1, ""):
            seed = self.places.drawn_seed(count)
            self.notes.append(f"{key} -1: drawn {seed}")
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED + 1 - count:
            raise InputError(
                f"{self.source}: {key} must be -1 or a whole number from 0 to "
                f"{MAX_SEED + 1 - count}, not {shown(seed)}"
            )
        return seed

    def _count(self, key: str) -> int:
        value = self.given.get(key, 1)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1000:
            raise InputError(
                f"{self.source}: {key} must be a whole number from 1 to 1000, not {shown(value)}"
            )
        return value
