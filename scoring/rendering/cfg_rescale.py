"""CFG rescale: guided predictions brought back to the spread of the unguided ones.

Lin et al. (2023), "Common Diffusion Noise Schedules and Sample Steps are Flawed", arXiv 2305.08891, equations
14 to 16.

The space matters, since spreads differ between them. The paper and diffusers (`guidance_rescale`) rescale
what the model predicts: noise or velocity. A1111's extension Seshelle/CFG_Rescale_webui
(scripts/CFGRescale.py) replaces `CFGDenoiser.combine_denoised`: with the samplers of k-diffusion that is the
denoised latents, whatever the model predicts. With DDIM it is what the model predicts before webui 1.6; since
then DDIM, PLMS and UniPC share `CFGDenoiser`, where it is the predicted noise.

Where dynamic thresholding is on as well, A1111 does that alone: its extension brings a denoiser with a
`combine_denoised` of its own, and the replaced one is never called.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rescale_guidance(guided: Tensor, positive: Tensor, phi: float) -> Tensor:
    """The share `phi` (0..1) of `guided` scaled to the standard deviation of `positive`, the rest as it is.

    guided, positive: (N, channels, h, w), of one space: with guidance, and what the prompt alone gives, that
    is guidance of scale 1: negative + the sum of weight * (part - negative). Every image is scaled by its own
    deviations, over all its channels; one without any deviation stays as it is. Sums are in float32 at least.
    """
    exact = guided.to(torch.promote_types(guided.dtype, torch.float32))
    wanted, found = _deviation(positive.to(exact.dtype)), _deviation(exact)
    flat = found == 0
    rescaled = exact * (wanted / found.masked_fill(flat, 1.0)).masked_fill(flat, 1.0)
    return (phi * rescaled + (1 - phi) * exact).to(guided.dtype)


def _deviation(images: Tensor) -> Tensor:
    return images.std(dim=(1, 2, 3), keepdim=True)
