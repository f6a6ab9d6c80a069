"""What A1111 does with a probe, step by step for one image and the sampler Euler: slow, and sure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from scoring.probes import Probe
from scoring.rendering.components import Components

Combine = Callable[[Tensor, Tensor, int, int], Tensor]
"""Denoised latents for the negative prompt and the prompt, step, steps -> what guidance makes of them."""


def training_sigmas() -> list[float]:
    """The noise levels of SD1 and SD2: the square roots of their betas are evenly spaced."""
    betas = [b * b for b in np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000)]
    alphas, product = [], 1.0
    for beta in betas:
        product *= 1 - beta
        alphas.append(product)
    return [math.sqrt((1 - a) / a) for a in alphas]


def uniform_sigmas(steps: int) -> list[float]:
    """k-diffusion's `get_sigmas`: evenly spaced times from the last to the first, then no noise."""
    table = training_sigmas()
    times = [999 - i * 999 / (steps - 1) for i in range(steps)] if steps > 1 else [999.0]
    return [math.exp(_between([math.log(s) for s in table], t)) for t in times] + [0.0]


def time_of(sigma: float) -> float:
    """The time at which the noise is `sigma`, by straight lines between the logarithms of the levels."""
    table = [math.log(s) for s in training_sigmas()]
    return float(np.interp(math.log(sigma), table, range(1000)))


def _between(values: list[float], t: float) -> float:
    low = min(int(t), len(values) - 2)
    return values[low] + (values[low + 1] - values[low]) * (t - low)


def second_pass_sigmas(steps: int, strength: float) -> list[float]:
    """Of so many steps that the last `steps` of them make the share `strength`."""
    total = int(steps / min(strength, 0.999))
    return uniform_sigmas(total)[total - steps :]


def plain_guidance(scale: float) -> Combine:
    return lambda negative, positive, _step, _steps: negative + scale * (positive - negative)


def euler(
    components: Components,
    x: Tensor,
    sigmas: list[float],
    states: tuple[Tensor, Tensor],
    combine: Combine,
) -> Tensor:
    """x (1, 4, h, w). states: (77, width) of the negative prompt and of the prompt."""
    unet: Any = components.unet
    for step in range(len(sigmas) - 1):
        sigma, following = sigmas[step], sigmas[step + 1]
        images = []
        for text in states:
            noise = sigma**2 + 1
            t = torch.tensor(time_of(sigma))
            answer: Tensor = unet(x / math.sqrt(noise), t, encoder_hidden_states=text[None]).sample
            if components.prediction_type == "epsilon":
                images.append(x - sigma * answer)
            else:
                images.append(x / noise - answer * sigma / math.sqrt(noise))
        image = combine(images[0], images[1], step, len(sigmas) - 1)
        x = x + (x - image) / sigma * (following - sigma)
    return x


def noise(probe: Probe, width: int, height: int) -> Tensor:
    generator = torch.Generator().manual_seed(probe.seed)
    return torch.randn((4, height, width), generator=generator)[None]


def first_pass(
    components: Components, probe: Probe, states: tuple[Tensor, Tensor], combine: Combine | None = None
) -> Tensor:
    sigmas = uniform_sigmas(probe.steps)
    x = noise(probe, probe.width // 8, probe.height // 8) * sigmas[0]
    return euler(components, x, sigmas, states, combine or plain_guidance(probe.cfg_scale))


def second_pass(
    components: Components,
    probe: Probe,
    latents: Tensor,
    states: tuple[Tensor, Tensor],
    combine: Combine | None = None,
    *,
    width: int,
    height: int,
) -> Tensor:
    """Latents enlarged as "Latent" does, to width x height latents, noised and denoised."""
    assert probe.hires is not None
    x = interpolate(latents, size=(height, width), mode="bilinear")
    sigmas = second_pass_sigmas(probe.hires.steps or probe.steps, probe.hires.denoising_strength)
    scale = probe.cfg_scale if probe.hires.cfg_scale is None else probe.hires.cfg_scale
    x = x + noise(probe, width, height) * sigmas[0]
    return euler(components, x, sigmas, states, combine or plain_guidance(scale))


def decoded(components: Components, latents: Tensor) -> Tensor:
    """The image (3, H, W) in [0, 1]."""
    vae: Any = components.vae
    image: Tensor = vae.decode(latents / vae.config.scaling_factor).sample[0]
    return (image / 2 + 0.5).clamp(0, 1)
