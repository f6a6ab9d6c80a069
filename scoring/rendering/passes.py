"""The passes of a probe: the first one and, with hires fix, the second, each a run of the denoising loop."""

from __future__ import annotations

from dataclasses import dataclass

from scoring.probes import Probe
from scoring.rendering.hires import Size, final_latents
from scoring.rendering.sampling import calls


@dataclass(frozen=True)
class Pass:
    """One run of the denoising loop.

    latents: the size it works on. guided: whether the negative prompt is needed whatever `cfg_scale` is.
    earlier_calls: how often the UNet is counted to be called in the pass before; None in the first.
    """

    prompt: str
    negative_prompt: str
    cfg_scale: float
    clip_skip: int
    sampler: str
    schedule: str | None
    steps: int
    latents: Size
    guided: bool
    earlier_calls: int | None = None

    @property
    def calls(self) -> int:
        """How often A1111 counts the UNet to be called: twice a step by samplers of second order."""
        return calls(self.sampler, self.steps)


def passes(probe: Probe, pixels_per_latent: int) -> tuple[Pass, ...]:
    """What is denoised for a probe, in order."""
    first = Pass(
        prompt=probe.prompt,
        negative_prompt=probe.negative_prompt,
        cfg_scale=probe.cfg_scale,
        clip_skip=probe.clip_skip,
        sampler=probe.sampler,
        schedule=probe.schedule,
        steps=probe.steps,
        latents=Size(probe.width // pixels_per_latent, probe.height // pixels_per_latent),
        guided=probe.thresholding is not None,
    )
    hires = probe.hires
    if hires is None:
        return (first,)
    sampler, schedule = probe.second_sampler
    second = Pass(
        prompt=probe.prompt if hires.prompt is None else hires.prompt,
        negative_prompt=probe.negative_prompt if hires.negative_prompt is None else hires.negative_prompt,
        cfg_scale=probe.cfg_scale if hires.cfg_scale is None else hires.cfg_scale,
        clip_skip=probe.clip_skip,
        sampler=sampler,
        schedule=schedule,
        steps=hires.steps or probe.steps,
        latents=final_latents(Size(probe.width, probe.height), hires, pixels_per_latent),
        guided=first.guided,
        earlier_calls=first.calls,
    )
    return (first, second)
