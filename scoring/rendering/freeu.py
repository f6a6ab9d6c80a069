"""FreeU: the decoder's own features are strengthened and what its skips bring is weakened.

Si et al. (2023), "FreeU: Free Lunch in Diffusion U-Net", arXiv 2309.11497, as A1111's extension
ljleb/sd-webui-freeu does it (lib_free_u/unet.py): which of its stages applies is told by the width of the
features that enter a layer of the decoder, not by the block it belongs to, as it is in diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from scoring.probes import FreeU, FreeUStage


class SetDone(Protocol):
    """What `freeu` is told before every evaluation of the UNet."""

    def __call__(self, done: float, steps: int | None = None) -> None:
        """done: the share of the steps that is done, 0 for the first; 1 and more lies behind every schedule.
        steps: how many are the whole; with it the schedule begins and ends on whole steps, rounded down, as
        A1111's does.
        """
        ...


@contextmanager
def freeu(unet: Any, settings: FreeU | None) -> Iterator[SetDone]:
    """Within it the decoder of `unet` (a diffusers UNet2DConditionModel) applies FreeU.

    Call what is yielded before every evaluation. None as settings changes nothing.

    `settings.stages[i]` applies where the features that a ResNet of the decoder takes from the one before
    have the i-th largest of the widths that such features have: 1280, 640 and 320 channels in SD1, SD2 and
    SDXL. Stages beyond these widths have no effect, as in A1111.

    A backward pass that evaluates the UNet again (gradient checkpointing) has to happen within it, and to
    call what is yielded again. A UNet that is compiled has to be compiled with
    `torch._dynamo.config.skip_nnmodule_hook_guards = False`: otherwise its code leaves FreeU out. It is
    compiled once more for each settings, and for each ratio that their transition gives.
    Raises RuntimeError for a compiled UNet without that.
    """
    if settings is None:
        yield _nothing
        return
    _check_compiled(unet)
    ratio = 0.0

    def set_done(done: float, steps: int | None = None) -> None:
        nonlocal ratio
        ratio = schedule_ratio(done, settings, steps)

    set_done(0.0)
    with ExitStack() as hooks:
        for resnet, width, stage in _staged(unet, settings):
            hook = _Hook(width, stage, settings.version, lambda: ratio)
            hooks.callback(resnet.register_forward_pre_hook(hook).remove)
        yield set_done


def _check_compiled(unet: Any) -> None:
    compiled = hasattr(unet, "_orig_mod") or any(module._compiled_call_impl for module in unet.modules())
    if compiled and torch._dynamo.config.skip_nnmodule_hook_guards:
        raise RuntimeError(
            "a compiled UNet does not notice FreeU; set "
            "torch._dynamo.config.skip_nnmodule_hook_guards = False before it runs for the first time"
        )


def _nothing(done: float, steps: int | None = None) -> None:  # noqa: ARG001
    return None


def _staged(unet: Any, settings: FreeU) -> Iterator[tuple[Any, int, FreeUStage]]:
    """The ResNets of the decoder that a stage is for, and how many channels they take from the one before."""
    resnets = [resnet for block in unet.up_blocks for resnet in block.resnets]
    before = [unet.mid_block.resnets[-1], *resnets[:-1]]
    widths = [resnet.out_channels for resnet in before]
    stages = dict(zip(sorted(set(widths), reverse=True), settings.stages, strict=False))
    for resnet, width in zip(resnets, widths, strict=True):
        if width in stages:
            yield resnet, width, stages[width]


class _Hook:
    """What a ResNet of the decoder is given: its input (N, width + skip, h, w) after FreeU."""

    def __init__(
        self, width: int, stage: FreeUStage, version: Literal[1, 2], ratio: Callable[[], float]
    ) -> None:
        self._width = width
        self._stage = stage
        self._version = version
        self._ratio = ratio

    def __call__(self, _resnet: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        ratio = self._ratio()
        if ratio == 0:
            return None
        features, *others = inputs
        hidden, skip = features[:, : self._width], features[:, self._width :]
        hidden = scale_backbone(hidden, self._stage, self._version, ratio)
        skip = filter_skip(
            skip,
            self._stage.skip_cutoff,
            _lerp(1.0, self._stage.skip_factor, ratio),
            _lerp(1.0, self._stage.skip_high_end_factor, ratio),
        )
        return (torch.cat([hidden, skip], dim=1), *others)


def schedule_ratio(done: float, settings: FreeU, steps: int | None) -> float:
    """How much of FreeU acts, 0..1, when the share `done` of the steps is done.

    Without transition it is all from `start` on and nothing from `stop` on. With the full transition it rises
    evenly from the first step to `start` and falls evenly from there to `stop`; between the two, a mixture.
    """
    start, stop = (_whole_steps(share, steps) for share in (settings.start, settings.stop))
    flat = 1.0 if start <= done < stop else 0.0
    if start == stop:
        smooth = 0.0
    elif done < start:
        smooth = done / start
    else:
        smooth = min(1.0, max(0.0, 1 - (done - start) / (stop - start)))
    return _lerp(flat, smooth, settings.transition)


def _whole_steps(share: float, steps: int | None) -> float:
    return share if steps is None else int(share * steps) / steps


def scale_backbone(hidden: Tensor, stage: FreeUStage, version: Literal[1, 2], ratio: float) -> Tensor:
    """The features (N, channels, h, w) of the decoder, those of the stage's region of channels scaled.

    Version 1 scales by the factor. Version 2 scales every place by what lies between 1 and the factor as far
    as the place's mean over all channels lies between the smallest and the largest of its image (its
    "structure"). Where these are the same (a single place) nothing is scaled; A1111 gives NaN there.
    """
    factor = _lerp(1.0, stage.backbone_factor, ratio)
    if factor == 1:
        return hidden
    channels = _region(stage, hidden.shape[1], hidden.device)[:, None, None]
    scale = factor if version == 1 else 1 + (factor - 1) * _structure(hidden)
    return torch.where(channels, hidden * scale, hidden)


def _structure(hidden: Tensor) -> Tensor:
    """The mean over channels, brought to 0..1 in every image: (N, 1, h, w)."""
    mean = hidden.mean(dim=1, keepdim=True)
    low, high = mean.amin(dim=(2, 3), keepdim=True), mean.amax(dim=(2, 3), keepdim=True)
    spread = high - low
    return (mean - low) / spread.masked_fill(spread == 0, 1.0)


def _region(stage: FreeUStage, channels: int, device: torch.device) -> Tensor:
    """Which channels (n,) are scaled: those from round(offset·n) to round((offset + width)·n), both included.

    A region that runs beyond the last channel goes on from the first one: then all are scaled but those from
    its end to its beginning, again both included.
    """
    offset, width = stage.backbone_offset % 1.0, stage.backbone_width
    channel = torch.arange(channels, device=device)
    if offset + width <= 1:
        return (round(offset * channels) <= channel) & (channel <= round((width + offset) * channels))
    return (channel < round((width + offset - 1) * channels)) | (round(offset * channels) < channel)


def filter_skip(skip: Tensor, cutoff: float, low: float, high: float) -> Tensor:
    """Skip features (N, channels, h, w) with their low frequencies scaled by `low`, all others by `high`.

    Low are, along a side of n places, the frequencies -r..r-1 with r = max(1, floor(cutoff·floor(n/2))). The
    sums are in float32.
    """
    if low == 1 and high == 1:
        return skip
    exact = skip.to(torch.promote_types(skip.dtype, torch.float32))
    rows, columns = (_low_frequencies(size, cutoff, skip.device) for size in skip.shape[2:])
    gain = torch.where(rows[:, None] & columns, low, high)
    spectrum = torch.fft.fftshift(torch.fft.fftn(exact, dim=(2, 3)), dim=(2, 3)) * gain
    filtered: Tensor = torch.fft.ifftn(torch.fft.ifftshift(spectrum, dim=(2, 3)), dim=(2, 3)).real
    return filtered.to(skip.dtype)


def _low_frequencies(size: int, cutoff: float, device: torch.device) -> Tensor:
    """Which of `size` frequencies are low, in the order of fftshift: that of 0 lies at size // 2."""
    centre = size // 2
    reach = max(1, int(centre * cutoff))
    place = torch.arange(size, device=device)
    return (centre - reach <= place) & (place < centre + reach)


def _lerp(begin: float, end: float, share: float) -> float:
    return (1 - share) * begin + share * end
