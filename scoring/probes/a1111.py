"""What A1111 calls things, and what it takes where nothing is said (stable-diffusion-webui, 1.7 to 1.10)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from scoring.display import shown
from scoring.errors import InputError
from scoring.probes.probe import Schedule
from scoring.rendering.sampling import SAMPLERS

NO_RNG = "names no RNG: A1111's default, GPU, which is NV here"
TUNED_MODES = {"Power Up", "Power Down", "Linear Repeating", "Cosine Repeating", "Sawtooth"}
"""The modes of dynamic thresholding that its scheduler value matters to."""

_SCHEDULES: Mapping[str, str] = {label.lower().replace(" ", ""): label for label in get_args(Schedule)}
_OLD_STAGE_KEYS = {"skip_threshold": "skip_cutoff"}
_RNGS: Mapping[str, Literal["CPU", "NV"]] = {"CPU": "CPU", "GPU": "NV", "NV": "NV"}


def eta_key(sampler: str) -> str:
    """The infotext's key of the eta that this sampler uses; an unknown one is for others to refuse."""
    known = SAMPLERS.get(sampler)
    return "Eta DDIM" if known is not None and known.kind == "timesteps" else "Eta"


def sampler_and_schedule(sampler: Any, schedule: Any, source: str) -> tuple[Any, str | None]:
    """A1111's sampler and scheduler under our names.

    Names of before version 1.9 hold both, as "DPM++ 2M Karras". schedule: a label ("SGM Uniform") or a name
    ("sgm_uniform") of A1111's, or None. The sampler is not checked. Raises InputError for an unknown
    schedule.
    """
    label = None if schedule is None else schedule_named(schedule, source)
    if not isinstance(sampler, str) or sampler in SAMPLERS:
        return sampler, label
    for ending in get_args(Schedule):
        plain = sampler.removesuffix(f" {ending}")
        if plain in SAMPLERS and label in (None, "Automatic", ending):
            return plain, ending
    return sampler, label


def schedule_named(name: Any, source: str) -> str:
    """The schedule that A1111 gives this name or label. Raises InputError for an unknown one."""
    label = _SCHEDULES.get(str(name).lower().replace(" ", "").replace("_", ""))
    if label is None:
        raise InputError(
            f"{source}: unknown schedule {shown(name)}; known schedules: {', '.join(get_args(Schedule))}"
        )
    return label


def rng_named(name: Any, source: str) -> Literal["CPU", "NV"]:
    """Ours for A1111's "Random number generator source". Raises InputError for an unknown one."""
    if not isinstance(name, str) or name not in _RNGS:
        raise InputError(f"{source}: unknown RNG {shown(name)}; take one of {', '.join(_RNGS)}")
    return _RNGS[name]


def freeu_stages(stages: Any, source: str) -> list[dict[str, Any]]:
    """FreeU's stages as our fields. Raises InputError unless they are a list of mappings."""
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise InputError(f"{source}: the FreeU stages must be a list of mappings, not {shown(stages)}")
    return [{_OLD_STAGE_KEYS.get(key, key): value for key, value in stage.items()} for stage in stages]


def freeu_share(given: Any, steps: int | None, source: str) -> float:
    """A share of the steps, from what FreeU's schedule holds: a decimal is that share, a whole number a step
    (with steps None it is a share as well).

    Raises InputError for what is no number, or one too large.
    """
    try:
        text = str(given)
        is_step = steps is not None and text.lstrip("+-").isdigit()
        share = int(text) / max(steps or 0, 1) if is_step else float(text)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{source}: the FreeU schedule holds {shown(given)}, which is no number") from error
    return share


def legacy_first_pass(width: int, height: int) -> tuple[int, int]:
    """The size of the first pass that hires fix chose before 2023 for an image of this size: about 512 x 512
    pixels in the same shape, in multiples of 64 (`old_hires_fix_first_pass_dimensions` of A1111)."""
    scale = math.sqrt(512 * 512 / (width * height))
    return math.ceil(scale * width / 64) * 64, math.ceil(scale * height / 64) * 64
