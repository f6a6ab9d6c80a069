"""The UNet as samplers see it: noisy latents and a noise level to the image that guidance takes them for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from scoring.probes import DynamicThresholding
from scoring.rendering.cfg_rescale import rescale_guidance
from scoring.rendering.components import PredictionType
from scoring.rendering.conditioning import BatchText, Pull
from scoring.rendering.thresholding import dynamic_thresholding

BetweenSteps = Callable[[], None]
"""Called after every evaluation of the UNet, so also before decoding; what it raises ends the render. Not
after those that a backward pass repeats."""


@dataclass(frozen=True)
class Guidance:
    """How the answers to the prompts become one, beside the strength that each prompt has.

    rescale: 0..1, as `rescale_guidance` says; as in A1111 it is left out where thresholding is on.
    of_noise: whether the noise that the UNet predicts is combined, and not the images that it leads to. For
    a sum of answers that is the same, for thresholding and rescaling it is not; A1111 does so for DDIM, PLMS
    and UniPC.
    """

    thresholding: DynamicThresholding | None = None
    rescale: float = 0.0
    of_noise: bool = False


class Denoiser:
    """What samplers call, once for every evaluation of the UNet; it counts them.

    t_of: noise level -> the time that the UNet is told. text: what it attends to. calls: how many evaluations
    there will be. begin_call: told before each one how many there were. between_steps: see `BetweenSteps`.
    checkpointed: a backward pass evaluates the UNet again instead of keeping what it needs of every call
    (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"), so that it takes the memory of one
    call, however many there are; `begin_call` is then told again of each.
    """

    def __init__(
        self,
        unet: Any,
        t_of: Callable[[Tensor], Tensor],
        prediction_type: PredictionType,
        text: BatchText,
        guidance: Guidance,
        *,
        calls: int,
        begin_call: Callable[[int], None],
        between_steps: BetweenSteps | None = None,
        checkpointed: bool = False,
    ) -> None:
        self._unet, self._t_of, self._prediction_type = unet, t_of, prediction_type
        self._text, self._guidance = text, guidance
        self._calls, self._begin_call, self._between_steps = calls, begin_call, between_steps
        self._checkpointed = checkpointed
        self._call = 0

    def __call__(self, x: Tensor, noise_level: Tensor) -> Tensor:
        """Latents x (N, 4, h, w) = image + sigma * noise to the image, as the UNet imagines it."""
        sigma, t = float(noise_level), self._t_of(noise_level).to(x.device, torch.float32)
        image: Tensor
        if self._checkpointed:
            # Noise is drawn outside: no random state to bring back.
            image = checkpoint(
                self._image, x, sigma, t, self._call, use_reentrant=False, preserve_rng_state=False
            )
        else:
            image = self._image(x, sigma, t, self._call)
        self._call += 1
        if self._between_steps is not None:
            self._between_steps()
        return image

    def _image(self, x: Tensor, sigma: float, t: Tensor, call: int) -> Tensor:
        self._begin_call(call)
        images = self._images(x, sigma, t, call)
        pull = self._text.pull
        if pull is None:
            return images
        if self._guidance.of_noise:
            noise = (x.repeat(len(images) // len(x), 1, 1, 1) - images) / sigma
            return x - sigma * self._guided(noise, pull, call)
        return self._guided(images, pull, call)

    def _images(self, x: Tensor, sigma: float, t: Tensor, call: int) -> Tensor:
        """What the UNet imagines for each text: the negative prompts' first, then each part's."""
        scaled = (x / math.sqrt(sigma**2 + 1)).to(self._unet.dtype)
        texts = self._text.at(call)
        predicted = torch.cat([self._predicted(scaled, t, rows) for rows in texts]).to(x.dtype)
        noisy = x.repeat(len(predicted) // len(x), 1, 1, 1)
        return denoised(noisy, predicted, sigma, self._prediction_type)

    def _predicted(self, scaled: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        repeated = scaled.repeat(len(rows) // len(scaled), 1, 1, 1)
        predicted: Tensor = self._unet(repeated, t, encoder_hidden_states=rows).sample
        return predicted

    def _guided(self, answers: Tensor, pull: Pull, call: int) -> Tensor:
        negative, *parts = answers.chunk(1 + len(pull.weights))
        thresholding = self._guidance.thresholding
        if thresholding is not None:
            weights, scale = pull.weights.to(answers), pull.cfg_scale.to(answers)
            return dynamic_thresholding(negative, parts, weights, scale, thresholding, call, self._calls)
        guided = classifier_free(negative, parts, pull)
        if self._guidance.rescale:
            alone = classifier_free(negative, parts, pull._replace(cfg_scale=torch.ones_like(pull.cfg_scale)))
            guided = rescale_guidance(guided, alone, self._guidance.rescale)
        return guided


def denoised(noisy: Tensor, predicted: Tensor, sigma: float, prediction_type: PredictionType) -> Tensor:
    """The image in latents (N, 4, h, w) of image + sigma * noise, from what the UNet predicted of them.

    For the noise Karras et al. (2022), table 1, for the velocity Salimans and Ho (2022), section 4; as
    k-diffusion's `DiscreteEpsDDPMDenoiser` and `DiscreteVDDPMDenoiser`.
    """
    if prediction_type == "epsilon":
        return noisy - sigma * predicted
    return noisy / (sigma**2 + 1) - predicted * (sigma / math.sqrt(sigma**2 + 1))


def classifier_free(negative: Tensor, parts: Sequence[Tensor], pull: Pull) -> Tensor:
    """Guidance of Ho and Salimans (2022); the pulls of several parts add up, as in Liu et al. (2022)."""
    guided = negative
    for part, weights in zip(parts, pull.weights, strict=True):
        strength = (pull.cfg_scale * weights).to(negative)[:, None, None, None]
        guided = guided + strength * (part - negative)
    return guided
