"""Probes to images: our own denoise loop over diffusers' parts, batched over prompts and seeds.

Unlike diffusers' pipeline it renders many prompts with their own seeds and guidance at once, encodes a text
only once, and can be differentiated: nothing here turns gradients off, the caller decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoring.errors import InputError, TrialFailed
from scoring.probes import Probe
from scoring.rendering.components import Components, dtype_name
from scoring.rendering.conditioning import Conditioner
from scoring.rendering.decoder import Decoder
from scoring.rendering.denoiser import BetweenSteps, Denoiser, Guidance
from scoring.rendering.freeu import SetDone, freeu
from scoring.rendering.hires import Size, enlarge
from scoring.rendering.images import check_images, first_not_finite
from scoring.rendering.memory import Kind, Memory, halves
from scoring.rendering.noise import SeededNoise
from scoring.rendering.passes import Pass, passes
from scoring.rendering.sampling.levels import NoiseLevels
from scoring.rendering.sampling.plan import plan

log = logging.getLogger(__name__)

Differentiate = Callable[[list[int], Tensor], None]
"""What is done with the images (n, 3, H, W) of some probes, by their indices, while their graph lives."""


@dataclass(frozen=True)
class _Calls:
    """What happens around every evaluation of the UNet; see `Denoiser` and `freeu`."""

    set_done: SetDone
    between_steps: BetweenSteps | None
    checkpointed: bool


class Renderer:
    """Renders probes with one checkpoint.

    The UNet's weights may change between calls; the text encoder's may not, its outputs are kept. Another
    one may take its place as `text`, with outputs of its own.
    max_batch: how many images are denoised at once (twice as many rows with guidance). Where so many do not
    fit the device's memory, it is halved for images of that size until they do, each size tried once;
    `notices` says so.
    embeddings: a folder of textual inversions that prompts may name.
    text: what encodes the texts, for checkpoints that share a text encoder: each text is then encoded once
    for all their renderers. It has its own embeddings, and the components' text encoder is left alone.
    Raises InputError for max_batch below 1, and for a folder that is not there.
    """

    def __init__(
        self,
        components: Components,
        device: torch.device | str,
        max_batch: int = 16,
        embeddings: Path | None = None,
        text: Conditioner | None = None,
    ) -> None:
        if max_batch < 1:
            raise InputError(f"max_batch {max_batch}: at least one image must fit; give 1 or more")
        self.components = components
        self.device = torch.device(device)
        self.max_batch = max_batch
        self.notices: list[str] = []
        """What the user should know of how the images are made, oldest first."""
        self._unet: Any = components.unet
        modules: tuple[Any, ...] = (components.unet, components.vae)
        for module in modules if text is not None else (*modules, components.text_encoder):
            module.to(self.device).eval()
        self._levels = NoiseLevels.of(components.scheduler_config)
        self._passes: dict[Probe, tuple[Pass, ...]] = {}
        self.text = text or Conditioner(components, self.device, embeddings)
        """What encodes the texts of what is rendered next."""
        self.memory = Memory(self.device, self._note)
        self._decoder = Decoder(components, self.memory, self._note)

    def encode(self, probes: Sequence[Probe]) -> None:
        """Encodes the texts of `probes` ahead of rendering. Raises InputError as `render` does."""
        self._check(probes)
        self.text.encode(run for probe in probes for run in self._runs(probe))

    def kind(self, probe: Probe) -> Kind:
        """What the memory to render a probe depends on: its largest size and its rows of the UNet."""
        runs = self._runs(probe)
        width, height = (self._factor * side for side in runs[-1].latents)
        return Kind("render", width, height, max(self.text.form(run).rows for run in runs))

    def render(
        self,
        probes: Sequence[Probe],
        only: Collection[int] | None = None,
        between_steps: BetweenSteps | None = None,
        differentiate: Differentiate | None = None,
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Renders `probes` batch by batch: their indices and images (n, 3, H, W), float32 in [0, 1].

        A batch has one sampler, step count, size and so on: its probes differ in what is said, how strongly,
        and in their noise. Which probes share it changes an image by no more than rounding. only: batches
        that hold none of these indices are left out; the others are the same as without it, so that a trial
        that was cut short goes on to the bit. A batch that does not fit the memory is cut in halves, which
        are the same every time too. between_steps: what it raises passes through and loses
        the batch; the next call renders as if nothing had happened.
        differentiate: called with every batch in the caller's grad mode, for a backward pass that needs the
        memory of one evaluation of the UNet, since it evaluates each again. A batch that does not fit with
        it is cut in halves too, and `differentiate` is called with each; what is yielded has no graph. In
        grad mode without it the images keep a graph of all steps.
        Raises InputError before anything is rendered for a size that the VAE can't make, a prompt that can't
        be encoded, or too large a `clip_skip`; while rendering, TrialFailed, naming the probe, where the UNet
        or the VAE makes NaN, and for an image that is black, of one colour, or too large for the memory.
        """
        self.encode(probes)
        wanted = set(range(len(probes)) if only is None else only)
        batches = _batches([self._common(probe) for probe in probes], self.max_batch)
        return chain.from_iterable(
            self._batch(probes, batch, wanted, between_steps, differentiate) for batch in batches
        )

    def _batch(
        self,
        probes: Sequence[Probe],
        indices: list[int],
        wanted: set[int],
        between_steps: BetweenSteps | None,
        differentiate: Differentiate | None,
    ) -> Iterator[tuple[list[int], Tensor]]:
        """A batch at once or, where the memory is too small for it, in halves of halves."""
        if wanted.isdisjoint(indices):
            return
        batch = [probes[i] for i in indices]
        names = [probe_name(i, probes[i]) for i in indices]
        kind = self.kind(batch[0])
        if differentiate is not None:
            kind = kind._replace(doing="differentiate")

        def work() -> Tensor:
            with freeu(self._unet, batch[0].freeu) as set_done:
                around = _Calls(set_done, between_steps, checkpointed=differentiate is not None)
                images = self._images(batch, names, around)
                check_images(images, names)
                if differentiate is None:
                    return images
                differentiate(indices, images)
                return images.detach()

        images = self.memory.attempt(kind, names, work)
        if images is not None:
            yield indices, images
            return
        for half in halves(indices):
            yield from self._batch(probes, half, wanted, between_steps, differentiate)

    def _images(self, batch: Sequence[Probe], names: list[str], around: _Calls) -> Tensor:
        latents: Tensor | None = None
        for runs in zip(*(self._runs(probe) for probe in batch), strict=True):
            latents = self._denoised(batch, runs, latents, around)
            self._check_latents(latents, names)
        assert latents is not None, "every probe has a first pass"
        return self._decoder.decode(latents, names)

    def _denoised(
        self, batch: Sequence[Probe], runs: Sequence[Pass], first: Tensor | None, around: _Calls
    ) -> Tensor:
        """Latents (N, 4, h, w) of images, float32: what a pass makes of noise or of the `first` pass."""
        probe, run = batch[0], runs[0]
        sampling = plan(run.sampler, run.schedule, probe.eta)
        shape = (self._unet.config.in_channels, run.latents.height, run.latents.width)
        # Not in 16 bits, as in k-diffusion: the latents of the first steps are large.
        dtype = torch.promote_types(self._unet.dtype, torch.float32)
        noise = SeededNoise(batch, shape, self.device, dtype)
        if first is None or probe.hires is None:
            way = sampling.first_pass(self._levels, run.steps)
            x = way.begin(noise.first())
        else:
            way = sampling.second_pass(self._levels, run.steps, probe.hires.denoising_strength)
            larger = enlarge(first, Size(probe.width, probe.height), probe.hires, self._factor)
            x = way.begin(noise.first(), larger)
        added = way.noise(noise.next, noise.seeds(), noise.seeded(), x)
        denoiser = Denoiser(
            self._unet,
            way.t_of,
            self.components.prediction_type,
            self.text.batch(runs, self._unet.dtype),
            Guidance(probe.thresholding, probe.cfg_rescale, of_noise=way.sampler.kind == "timesteps"),
            calls=run.calls,
            # A1111's extension goes on counting in the second pass.
            begin_call=lambda call: around.set_done(((run.earlier_calls or 0) + call) / run.steps, run.steps),
            between_steps=around.between_steps,
            checkpointed=around.checkpointed,
        )
        return way.sample(denoiser, x, added)

    def _check_latents(self, latents: Tensor, names: list[str]) -> None:
        broken = first_not_finite(latents, names)
        if broken is not None:
            raise TrialFailed(
                f"the merged UNet made NaN of the latents of {broken}; {_remedy(self._unet.dtype)}"
            )

    @property
    def _factor(self) -> int:
        return self.components.pixels_per_latent

    def _runs(self, probe: Probe) -> tuple[Pass, ...]:
        if probe not in self._passes:
            self._passes[probe] = passes(probe, self._factor)
        return self._passes[probe]

    def _common(self, probe: Probe) -> tuple[object, ...]:
        """What probes have in common that are rendered together."""
        how = [
            (run.sampler, run.schedule, run.steps, run.latents, self.text.form(run))
            for run in self._runs(probe)
        ]
        hires = probe.hires
        second = hires and (hires.upscaler, hires.denoising_strength, probe.width, probe.height)
        return (*how, second, probe.eta, probe.freeu, probe.thresholding, probe.cfg_rescale)

    def _note(self, notice: str) -> None:
        log.warning(notice)
        self.notices.append(notice)

    def _check(self, probes: Sequence[Probe]) -> None:
        factor = self._factor
        for i, probe in enumerate(probes):
            if probe.width % factor or probe.height % factor:
                raise InputError(
                    f"probe {i}: {probe.width}x{probe.height} can't be made by this model's VAE; "
                    f"take multiples of {factor}"
                )
            for run in self._runs(probe):
                self.text.check(run)

    def _check_steps(self, probe: Probe) -> None:
        first, *second = self._runs(probe)
        plan(first.sampler, first.schedule).first_pass(self._levels, first.steps)
        if probe.hires is not None:
            for run in second:
                sampling = plan(run.sampler, run.schedule)
                sampling.second_pass(self._levels, run.steps, probe.hires.denoising_strength)


def probe_name(index: int, probe: Probe) -> str:
    """What a probe is called in messages."""
    return f"probe {index} ({probe.prompt[:60]!r}, seed {probe.seed})"


def _remedy(dtype: torch.dtype) -> str:
    if dtype in (torch.float16, torch.bfloat16):
        return f"run it in float32: in {dtype_name(dtype)} it may overflow"
    return "its weights are broken: render each model alone to see which brings that"


def _batches(kinds: Sequence[tuple[object, ...]], max_batch: int) -> Iterator[list[int]]:
    """Indices of probes of one kind, in order of their first appearance."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(i)
    for indices in groups.values():
        for start in range(0, len(indices), max_batch):
            yield indices[start : start + max_batch]
