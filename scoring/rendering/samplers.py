"""The samplers by the names that A1111 gives them, built on diffusers' schedulers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scoring.errors import InputError

if TYPE_CHECKING:
    from scoring.rendering.components import Components

Options = Mapping[str, object]

# What a model was trained with, and so what every sampler needs to know of it.
_TRAINING_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
_ZERO_SNR = "rescale_betas_zero_snr"

# k-diffusion spreads its steps over all training steps; ldm takes every n-th training step and adds one.
_K_SPACING: Options = {"timestep_spacing": "linspace"}
_LDM_SPACING: Options = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}


@dataclass(frozen=True)
class SamplerSpec:
    """How to build one sampler.

    scheduler: name of the diffusers scheduler class.
    options: its constructor arguments, apart from what the model was trained with.
    """

    scheduler: str
    options: Options = field(default_factory=dict)


def _k(scheduler: str, **options: object) -> SamplerSpec:
    return SamplerSpec(scheduler, {**_K_SPACING, **options})


_DPMPP_2M: Options = {
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "final_sigmas_type": "zero",
}
_DPMPP_2M_SDE: Options = {**_DPMPP_2M, "algorithm_type": "sde-dpmsolver++"}
# A1111's settings for it; bh1 has no last step to noise level zero (it would divide by infinity).
_UNIPC: Options = {
    "solver_order": 3,
    "solver_type": "bh1",
    "lower_order_final": True,
    "final_sigmas_type": "sigma_min",
}
_KARRAS: Options = {"use_karras_sigmas": True}

SAMPLERS: Mapping[str, SamplerSpec] = {
    "Euler": _k("EulerDiscreteScheduler"),
    "Euler a": _k("EulerAncestralDiscreteScheduler"),
    "Heun": _k("HeunDiscreteScheduler"),
    "LMS": _k("LMSDiscreteScheduler"),
    "LMS Karras": _k("LMSDiscreteScheduler", **_KARRAS),
    "DPM2": _k("KDPM2DiscreteScheduler"),
    "DPM2 Karras": _k("KDPM2DiscreteScheduler", **_KARRAS),
    "DPM2 a": _k("KDPM2AncestralDiscreteScheduler"),
    "DPM2 a Karras": _k("KDPM2AncestralDiscreteScheduler", **_KARRAS),
    "DPM++ 2M": _k("DPMSolverMultistepScheduler", **_DPMPP_2M),
    "DPM++ 2M Karras": _k("DPMSolverMultistepScheduler", **_DPMPP_2M, **_KARRAS),
    "DPM++ 2M SDE": _k("DPMSolverMultistepScheduler", **_DPMPP_2M_SDE),
    "DPM++ 2M SDE Karras": _k("DPMSolverMultistepScheduler", **_DPMPP_2M_SDE, **_KARRAS),
    "UniPC": _k("UniPCMultistepScheduler", **_UNIPC),
    "DDIM": SamplerSpec("DDIMScheduler", {**_LDM_SPACING, "clip_sample": False}),
    "PLMS": SamplerSpec("PNDMScheduler", {**_LDM_SPACING, "skip_prk_steps": True}),
}


def check_sampler(name: str) -> str:
    """`name` when it is the name of a sampler; raises InputError listing the known names."""
    if name not in SAMPLERS:
        raise InputError(f"unknown sampler {name!r}; known samplers: {', '.join(SAMPLERS)}")
    return name


def make_scheduler(name: str, components: Components) -> Any:
    """A fresh diffusers scheduler for one batch (most schedulers remember the steps before).

    Noise levels and prediction type are the model's, spacing and order the sampler's.
    Raises InputError for an unknown sampler, for a model whose scheduler config lacks its betas, and for a
    sampler that can't follow a model trained to zero terminal SNR.
    """
    import diffusers  # here, so that reading and checking probes stays fast

    spec = SAMPLERS[check_sampler(name)]
    scheduler_class = getattr(diffusers, spec.scheduler)
    options = {**spec.options, **_training_options(name, scheduler_class, components.scheduler_config)}
    return scheduler_class(prediction_type=components.prediction_type, **options)


def _training_options(name: str, scheduler_class: type, config: Mapping[str, Any]) -> dict[str, object]:
    missing = [key for key in ("beta_start", "beta_end", "beta_schedule") if key not in config]
    if missing:
        raise InputError(
            f"the model's scheduler config lacks {', '.join(missing)}; "
            "take them from the scheduler_config.json of the model's architecture"
        )
    options = {key: config[key] for key in _TRAINING_KEYS if config.get(key) is not None}
    if config.get(_ZERO_SNR):
        if _ZERO_SNR not in inspect.signature(scheduler_class).parameters:
            raise InputError(
                f"sampler {name!r} can't render a model trained to zero terminal SNR; "
                "take Euler, Euler a, DDIM, UniPC or one of DPM++ 2M"
            )
        options[_ZERO_SNR] = True
    return options
