"""`override_settings` of an A1111 payload: settings of the web UI for this image alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from scoring.display import shown
from scoring.errors import InputError
from scoring.probes.a1111 import eta_key, rng_named, schedule_named

_READ = (
    "CLIP_stop_at_last_layers",
    "eta_noise_seed_delta",
    "randn_source",
    "eta_ancestral",
    "eta_ddim",
    "k_sched_type",
)
_MODELS = {"sd_model_checkpoint": "Model", "sd_vae": "VAE"}
# Any of the values given is what is done here anyway.
_AGREED: Mapping[str, tuple[object, ...]] = {
    "use_old_scheduling": (False,),
    "emphasis": ("Original",),
    "enable_emphasis": (True,),
    "comma_padding_backtrack": (20,),
    "token_merging_ratio": (0,),
    "token_merging_ratio_hr": (0,),
    "sd_noise_schedule": ("Default",),
    "sdxl_clip_l_skip": (False,),
}
_OF_FILES = re.compile(
    r"(samples|grid|save|outdir|directories|show|return|live_preview|do_not|img_downscale)_.*|use_.*path.*"
)


@dataclass(frozen=True)
class Options:
    """What the settings say. rng: None where they don't. notes, provenance: as `Reading` has them."""

    clip_skip: Any = 1
    ensd: Any = 0
    rng: Literal["CPU", "NV"] | None = None
    schedule: str | None = None
    etas: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)

    def eta(self, sampler: str) -> Any:
        """That of this sampler, or None."""
        return self.etas.get(eta_key(sampler))


def read_options(settings: Any, source: str) -> Options:
    """What `override_settings` asks for. Raises InputError naming what can't be done here."""
    if not isinstance(settings, Mapping):
        raise InputError(f"{source}: override_settings must be a mapping, not {shown(settings)}")
    wanted = [f"{key}={shown(value)}" for key, value in settings.items() if not _is_done(str(key), value)]
    if wanted:
        raise InputError(f"{source}: override_settings: can't be done: {', '.join(wanted)}; take it out")
    models = {_MODELS[key]: str(settings[key]) for key in _MODELS if settings.get(key)}
    notes = ("sd_model_checkpoint and sd_vae are not used: the job names its models",) if models else ()
    etas = {"Eta": settings.get("eta_ancestral"), "Eta DDIM": settings.get("eta_ddim")}
    return Options(
        clip_skip=settings.get("CLIP_stop_at_last_layers", 1),
        ensd=settings.get("eta_noise_seed_delta", 0),
        rng=rng_named(settings["randn_source"], source) if "randn_source" in settings else None,
        schedule=schedule_named(settings["k_sched_type"], source) if "k_sched_type" in settings else None,
        etas=etas,
        notes=notes,
        provenance=models,
    )


def _is_done(key: str, value: object) -> bool:
    if key in _AGREED:
        return value in _AGREED[key]
    return key in _READ or key in _MODELS or bool(_OF_FILES.fullmatch(key))
