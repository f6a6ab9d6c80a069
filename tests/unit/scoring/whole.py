"""Whole renders of one probe, and the states of its texts for doing the same by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scoring.probes import Probe
from scoring.rendering.components import Components
from scoring.rendering.renderer import Renderer
from scoring.rendering.text_encoder import TextEncoder

TOLERANCE = 1e-4


def probe(**fields: Any) -> Probe:
    """A cat without rain, in three steps of Euler, 32x32."""
    wanted = {"prompt": "a cat", "negative_prompt": "rain", "seed": 1, "steps": 3, "sampler": "Euler"}
    return Probe(**{**wanted, "width": 32, "height": 32, **fields})


def image(components: Components, wanted: Probe) -> Tensor:
    """The render (3, H, W) in [0, 1]."""
    with torch.no_grad():
        ((_, images),) = Renderer(components, "cpu").render([wanted])
    return images[0]


def states(components: Components, negative: str = "rain", positive: str = "a cat") -> tuple[Tensor, Tensor]:
    """What the UNet attends to for both prompts: (77, width) each."""
    encoder = TextEncoder(components, torch.device("cpu"))
    encoder.encode([(negative, 1), (positive, 1)])
    return encoder.states(negative, 1), encoder.states(positive, 1)


def difference(a: Tensor, b: Tensor) -> float:
    """The largest, of any pixel."""
    return float((a - b).abs().max())
