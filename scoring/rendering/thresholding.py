"""Dynamic thresholding ("CFG scale fix"): strong guidance that spreads no further than weak guidance.

As the extension mcmonkeyprojects/sd-dynamic-thresholding does it (dynthres_core.py); the idea is that of
Imagen (Saharia et al., 2022, section 2.3), there for pixels.

The space is that of A1111's `CFGDenoiser.combine_denoised`, which the extension replaces
(scripts/dynamic_thresholding.py). For the samplers of k-diffusion (Euler, Heun, DPM++, LMS, …) that is the
denoised latents, whatever the model predicts. The extension refuses DDIM and PLMS; UniPC it thresholds in
predicted noise (dynthres_unipc.py), which A1111 makes of a v-prediction first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from scoring.errors import InputError
from scoring.probes import DynamicThresholding
from scoring.probes.probe import ScaleMode


def dynamic_thresholding(  # noqa: PLR0917
    negative: Tensor,
    parts: Sequence[Tensor],
    weights: Tensor,
    cfg_scale: Tensor,
    settings: DynamicThresholding,
    step: int,
    steps: int,
) -> Tensor:
    """Guided predictions (N, channels, h, w).

    negative, and each of parts: (N, channels, h, w), what the model makes of the negative prompt and of every
    part of the prompt. weights: (parts, N), the parts' own; 0 for a part that a row lacks. cfg_scale: (N,).
    step: which evaluation of the model it is, from 0; steps: how many are expected in this pass.

    Every image is scaled by its own spread. A1111 takes that of its whole batch where the channels are not
    separate; with one image a batch the two are the same. Sums are in float32 at least.
    Raises InputError for a power below 0.
    """
    dtype = negative.dtype
    negative = _exact(negative)
    pull = torch.zeros_like(negative)
    for weight, part in zip(weights, parts, strict=True):
        pull = pull + _per_row(weight, pull) * (_exact(part) - negative)

    share = step / (steps - 1) if steps > 1 else 0.0
    mimic_factor = scale_factor(settings.mimic_mode, share, settings.sched_value)
    cfg_factor = scale_factor(settings.cfg_mode, share, settings.sched_value)
    mimic_scale = settings.mimic_scale_min + (settings.mimic_scale - settings.mimic_scale_min) * mimic_factor
    cfg_scale = settings.cfg_scale_min + (cfg_scale - settings.cfg_scale_min) * cfg_factor

    guided = negative + pull * _per_row(cfg_scale, pull)
    mimicked = negative + pull * mimic_scale
    thresholded = _threshold(guided.flatten(2), mimicked.flatten(2), settings).view_as(guided)
    phi = settings.interpolate_phi
    return (phi * thresholded + (1 - phi) * guided).to(dtype)


def _threshold(guided: Tensor, mimicked: Tensor, settings: DynamicThresholding) -> Tensor:
    """`guided` with the spread of `mimicked`, both (N, channels, places)."""
    mean = guided.mean(dim=2, keepdim=True)
    centred = guided - mean
    mimic_spread = _spread(mimicked - mimicked.mean(dim=2, keepdim=True), 1.0, settings)
    spread = _spread(centred, settings.threshold_percentile * 0.01, settings)
    if settings.scaling_startpoint == "ZERO":
        return guided * _ratio(mimic_spread, spread)
    if settings.variability == "STD":
        return mean + centred * _ratio(mimic_spread, spread)
    limit = torch.maximum(mimic_spread, spread)
    return mean + centred.clamp(-limit, limit) * _ratio(mimic_spread, limit)


def _spread(centred: Tensor, quantile: float, settings: DynamicThresholding) -> Tensor:
    """How far values (N, channels, places) lie from their means: (N, channels, 1), or (N, 1, 1) for all.

    STD: their standard deviation. AD: the largest of their distances, or the `quantile` (0..1) of them.
    """
    values = centred if settings.separate_feature_channels else centred.flatten(1)[:, None]
    if settings.variability == "STD":
        return values.std(dim=2, keepdim=True, correction=min(1, values.shape[2] - 1))
    if quantile == 1:
        return values.abs().amax(dim=2, keepdim=True)
    return torch.quantile(values.abs(), quantile, dim=2, keepdim=True)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Their ratio; 1 where the denominator is 0 and so nothing is there to scale (A1111 gives NaN there)."""
    nothing = denominator == 0
    return (numerator / denominator.masked_fill(nothing, 1.0)).masked_fill(nothing, 1.0)


# What each mode makes of the share of the evaluations (0 to 1 in the last one) and of `sched_value`: the
# power, or how often what repeats comes. The half cosines end at cos(1), which is how the extension has them.
_MODES: Mapping[ScaleMode, Callable[[float, float], float]] = {
    "Constant": lambda _share, _value: 1.0,
    "Linear Down": lambda share, _value: 1 - share,
    "Cosine Down": lambda share, _value: math.cos(1.5707 * share),
    "Half Cosine Down": lambda share, _value: math.cos(share),
    "Linear Up": lambda share, _value: share,
    "Cosine Up": lambda share, _value: 1 - math.cos(1.5707 * share),
    "Half Cosine Up": lambda share, _value: 1 - math.cos(share),
    "Power Up": math.pow,
    "Power Down": lambda share, value: 1 - math.pow(share, value),
    "Linear Repeating": lambda share, value: abs(2 * (share * value % 1) - 1),
    "Cosine Repeating": lambda share, value: (1 + math.cos(6.28318 * share * value)) / 2,
    "Sawtooth": lambda share, value: share * value % 1,
}


def scale_factor(mode: ScaleMode, share: float, value: float) -> float:
    """What is left of a scale above its minimum when `share` of the evaluations are done.

    share goes on beyond 1 where a sampler makes more evaluations than expected, as in A1111.
    Raises InputError for a power below 0, which the first step has no value for.
    """
    if mode in ("Power Up", "Power Down") and value < 0:
        raise InputError(
            f"dynamic thresholding: sched_value {value} is no power for {mode!r}; give 0 or more"
        )
    return _MODES[mode](share, value)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _per_row(numbers: Tensor, images: Tensor) -> Tensor:
    return numbers.to(images)[:, None, None, None]
