"""A probe as an A1111 infotext.

The names, their order and what is left out are those of `create_infotext` in `modules/processing.py` of
stable-diffusion-webui, and of its extensions sd-webui-freeu, sd-dynamic-thresholding and CFG_Rescale_webui.
What a probe says and A1111 would leave out is written where a reader could not know it, so that reading what
was written gives the same probe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from scoring.probes.a1111 import TUNED_MODES, eta_key
from scoring.probes.infotext_lines import write_lines
from scoring.probes.probe import DynamicThresholding, FreeU, Hires, Probe
from scoring.rendering.sampling import SAMPLERS, named_for_automatic

_Settings = Mapping[str, str | None]
"""None: not written."""


def to_infotext(probe: Probe) -> str:
    """The text that A1111 would put into the PNG of this probe.

    `scoring.probes.infotext_reader.read_infotext` gives the same probe back.
    """
    varied = bool(probe.variation_strength or probe.variation_seed)
    settings: _Settings = {
        "Steps": str(probe.steps),
        "Sampler": probe.sampler,
        "Schedule type": named_for_automatic(probe.sampler, probe.schedule),
        "CFG scale": _number(probe.cfg_scale),
        "Seed": str(probe.seed),
        "Size": f"{probe.width}x{probe.height}",
        "Variation seed": str(probe.variation_seed) if varied else None,
        "Variation seed strength": _number(probe.variation_strength) if varied else None,
        "Denoising strength": _number(probe.hires.denoising_strength) if probe.hires else None,
        "Clip skip": str(probe.clip_skip) if probe.clip_skip != 1 else None,
        "ENSD": str(probe.ensd) if probe.ensd else None,
        "RNG": probe.rng,
        "CFG Rescale": _number(probe.cfg_rescale) if probe.cfg_rescale else None,
        **(_freeu(probe.freeu) if probe.freeu else {}),
        **(_hires(probe.hires) if probe.hires else {}),
        **(_thresholding(probe.thresholding) if probe.thresholding else {}),
        eta_key(probe.sampler): None if probe.eta is None else _number(probe.eta),
    }
    written = {key: value for key, value in settings.items() if value is not None}
    return write_lines(probe.prompt, probe.negative_prompt, written)


def _freeu(freeu: FreeU) -> _Settings:
    # The shares get a point each: a whole number would be a step.
    shares = [repr(float(share)) for share in (freeu.start, freeu.stop, freeu.transition)]
    return {
        "FreeU Stages": json.dumps([stage.model_dump(exclude_defaults=True) for stage in freeu.stages]),
        "FreeU Schedule": ", ".join(shares),
        "FreeU Version": str(freeu.version),
    }


def _hires(hires: Hires) -> _Settings:
    resized = bool(hires.resize_x or hires.resize_y)
    return {
        "Hires sampler": hires.sampler,
        "Hires prompt": hires.prompt,
        "Hires negative prompt": hires.negative_prompt,
        "Hires CFG Scale": None if hires.cfg_scale is None else _number(hires.cfg_scale),
        "Hires schedule type": _second_schedule(hires),
        "Hires upscale": None if resized and hires.scale == 2 else _number(hires.scale),
        "Hires resize": f"{hires.resize_x}x{hires.resize_y}" if resized else None,
        "Hires steps": str(hires.steps) if hires.steps else None,
        "Hires upscaler": hires.upscaler,
    }


def _second_schedule(hires: Hires) -> str | None:
    # Where A1111 finds none it takes that of the first pass, which a sampler of its own does not.
    if hires.sampler is None or hires.schedule is not None:
        return hires.schedule
    spec = SAMPLERS[hires.sampler]
    return None if spec.fixed else spec.schedule


def _thresholding(given: DynamicThresholding) -> _Settings:
    mimics = given.mimic_mode != "Constant" or given.mimic_scale_min != 0
    scales = given.cfg_mode != "Constant" or given.cfg_scale_min != 0
    tuned = bool({given.cfg_mode, given.mimic_mode} & TUNED_MODES) or given.sched_value != 4
    return {
        "Dynamic thresholding enabled": "True",
        "Mimic scale": _number(given.mimic_scale),
        "Separate Feature Channels": str(given.separate_feature_channels),
        "Scaling Startpoint": given.scaling_startpoint,
        "Variability Measure": given.variability,
        "Interpolate Phi": _number(given.interpolate_phi),
        "Threshold percentile": _number(given.threshold_percentile),
        "Mimic mode": given.mimic_mode if mimics else None,
        "Mimic scale minimum": _number(given.mimic_scale_min) if mimics else None,
        "CFG mode": given.cfg_mode if scales else None,
        "CFG scale minimum": _number(given.cfg_scale_min) if scales else None,
        "Scheduler value": _number(given.sched_value) if tuned else None,
    }


def _number(value: float) -> str:
    """7 for 7.0, as A1111's sliders give it; else the shortest text that means this very number."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
