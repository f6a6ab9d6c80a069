"""Probes to images: our own denoise loop over diffusers' parts, batched over prompts and seeds.

Unlike diffusers' pipeline it renders many prompts with their own seeds and guidance at once, encodes a text
only once, and can be differentiated: nothing here turns gradients off, the caller decides.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoring.errors import InputError, TrialFailed
from scoring.probes import Probe
from scoring.rendering.components import Components, dtype_name
from scoring.rendering.conditioning import BatchText, Conditioner, Form
from scoring.rendering.decoder import Decoder
from scoring.rendering.images import check_images, first_not_finite
from scoring.rendering.memory import Kind, Memory, halves
from scoring.rendering.samplers import make_scheduler

log = logging.getLogger(__name__)

BetweenSteps = Callable[[], None]
"""Called after every denoising step, so also before decoding; what it raises ends the render."""


def denoise(
    unet: Any,
    scheduler: Any,
    latents: Tensor,
    *,
    text: BatchText,
    generators: list[torch.Generator],
    between_steps: BetweenSteps | None = None,
) -> Tensor:
    """Latents (N, 4, h, w) of noise, already at the scheduler's first noise level, to latents of images.

    generators: one a row, for samplers that add noise on the way. The scheduler's timesteps must be set.
    """
    guidance = None if text.guidance is None else text.guidance.to(latents)[:, :, None, None, None]
    noise = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for call, t in enumerate(scheduler.timesteps):
        x = scheduler.scale_model_input(latents, t)
        predicted = _predict(unet, x, t, text.at(call), guidance)
        latents = scheduler.step(predicted, t, latents, **noise, return_dict=False)[0]
        if between_steps is not None:
            between_steps()
    return latents


def _predict(unet: Any, x: Tensor, t: Tensor, texts: Sequence[Tensor], guidance: Tensor | None) -> Tensor:
    """What the UNet makes of `x` (N, 4, h, w) at time `t` under `texts`, as `BatchText.at` gives them.

    guidance: (parts, N, 1, 1, 1), or None. Classifier-free guidance is that of Ho and Salimans (2022), as
    k-diffusion and A1111 write it; the pulls of several parts add up, as in Liu et al. (2022).
    """
    predicted: Tensor = torch.cat(
        [unet(x.repeat(len(rows) // len(x), 1, 1, 1), t, encoder_hidden_states=rows).sample for rows in texts]
    )
    if guidance is None:
        return predicted
    negative, *parts = predicted.chunk(1 + len(guidance))
    guided = negative
    for strength, part in zip(guidance, parts, strict=True):
        guided = guided + strength * (part - negative)
    return guided


class Renderer:
    """Renders probes with one checkpoint.

    The UNet's weights may change between calls; the text encoder's may not, its outputs are kept.
    max_batch: how many images are denoised at once (twice as many rows with guidance). Where so many do not
    fit the device's memory, it is halved for images of that size until they do, each size tried once;
    `notices` says so.
    embeddings: a folder of textual inversions that prompts may name.
    Raises InputError for max_batch below 1, and for a folder that is not there.
    """

    def __init__(
        self,
        components: Components,
        device: torch.device | str,
        max_batch: int = 16,
        embeddings: Path | None = None,
    ) -> None:
        if max_batch < 1:
            raise InputError(f"max_batch {max_batch}: at least one image must fit; give 1 or more")
        self.components = components
        self.device = torch.device(device)
        self.max_batch = max_batch
        self.notices: list[str] = []
        """What the user should know of how the images are made, oldest first."""
        self._unet: Any = components.unet
        modules: tuple[Any, ...] = (components.unet, components.vae, components.text_encoder)
        for module in modules:
            module.to(self.device).eval()
        self._text = Conditioner(components, self.device, embeddings)
        self.memory = Memory(self.device, self._note)
        self._decoder = Decoder(components, self.memory, self._note)

    def encode(self, probes: Sequence[Probe]) -> None:
        """Encodes the texts of `probes` ahead of rendering. Raises InputError as `render` does."""
        self._check(probes)
        self._text.encode(probes)

    def kind(self, probe: Probe) -> Kind:
        """What the memory to render a probe depends on: its size and its rows of the UNet."""
        return Kind("render", probe.width, probe.height, self._text.form(probe).rows)

    def render(
        self,
        probes: Sequence[Probe],
        only: Collection[int] | None = None,
        between_steps: BetweenSteps | None = None,
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Renders `probes` batch by batch: their indices and images (n, 3, H, W), float32 in [0, 1].

        A batch has one sampler, step count and size; which probes share it changes an image by no more than
        rounding. only: batches that hold none of these indices are left out; the others are the same as
        without it, so that a trial that was cut short goes on to the bit. A batch that does not fit the
        memory is cut in halves, which are the same every time too. between_steps: what it raises passes
        through and loses the batch; the next call renders as if nothing had happened.
        Raises InputError before anything is rendered for a size that the VAE can't make, a prompt that can't
        be encoded, or too large a `clip_skip`; while rendering, TrialFailed, naming the probe, where the UNet
        or the VAE makes NaN, and for an image that is black, of one colour, or too large for the memory.
        """
        self.encode(probes)
        wanted = set(range(len(probes)) if only is None else only)
        batches = _batches(probes, [self._text.form(probe) for probe in probes], self.max_batch)
        return chain.from_iterable(self._batch(probes, batch, wanted, between_steps) for batch in batches)

    def _batch(
        self,
        probes: Sequence[Probe],
        indices: list[int],
        wanted: set[int],
        between_steps: BetweenSteps | None,
    ) -> Iterator[tuple[list[int], Tensor]]:
        """A batch at once or, where the memory is too small for it, in halves of halves."""
        if wanted.isdisjoint(indices):
            return
        batch = [probes[i] for i in indices]
        names = [probe_name(i, probes[i]) for i in indices]
        images = self.memory.attempt(
            self.kind(batch[0]), names, lambda: self._images(batch, names, between_steps)
        )
        if images is None:
            for half in halves(indices):
                yield from self._batch(probes, half, wanted, between_steps)
            return
        check_images(images, names)
        yield indices, images

    def _images(self, batch: Sequence[Probe], names: list[str], between_steps: BetweenSteps | None) -> Tensor:
        scheduler = make_scheduler(batch[0].sampler, self.components)
        scheduler.set_timesteps(batch[0].steps, device=self.device)
        generators = [torch.Generator("cpu").manual_seed(probe.seed) for probe in batch]
        latents = self._noise(batch[0], generators) * scheduler.init_noise_sigma
        denoised = denoise(
            self._unet,
            scheduler,
            latents,
            text=self._text.batch(batch, self._unet.dtype),
            generators=generators,
            between_steps=between_steps,
        )
        self._check_latents(denoised, names)
        return self._decoder.decode(denoised, names)

    def _check_latents(self, latents: Tensor, names: list[str]) -> None:
        broken = first_not_finite(latents, names)
        if broken is not None:
            raise TrialFailed(
                f"the merged UNet made NaN of the latents of {broken}; {_remedy(self._unet.dtype)}"
            )

    def _noise(self, probe: Probe, generators: Sequence[torch.Generator]) -> Tensor:
        """Noise (N, channels, h, w), always drawn on the CPU in float32: the same on every device."""
        factor = self.components.pixels_per_latent
        shape = (self._unet.config.in_channels, probe.height // factor, probe.width // factor)
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        return noise.to(self.device, self._unet.dtype)

    def _note(self, notice: str) -> None:
        log.warning(notice)
        self.notices.append(notice)

    def _check(self, probes: Sequence[Probe]) -> None:
        factor = self.components.pixels_per_latent
        for i, probe in enumerate(probes):
            if probe.width % factor or probe.height % factor:
                raise InputError(
                    f"probe {i}: {probe.width}x{probe.height} can't be made by this model's VAE; "
                    f"take multiples of {factor}"
                )
            self._text.check(probe)


def probe_name(index: int, probe: Probe) -> str:
    """What a probe is called in messages."""
    return f"probe {index} ({probe.prompt[:60]!r}, seed {probe.seed})"


def _remedy(dtype: torch.dtype) -> str:
    if dtype in (torch.float16, torch.bfloat16):
        return f"run it in float32: in {dtype_name(dtype)} it may overflow"
    return "its weights are broken: render each model alone to see which brings that"


def _batches(probes: Sequence[Probe], forms: Sequence[Form], max_batch: int) -> Iterator[list[int]]:
    """Indices of probes that can be rendered together, in order of their first appearance."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, (probe, form) in enumerate(zip(probes, forms, strict=True)):
        key = (probe.sampler, probe.steps, probe.width, probe.height, form)
        groups.setdefault(key, []).append(i)
    for indices in groups.values():
        for start in range(0, len(indices), max_batch):
            yield indices[start : start + max_batch]
