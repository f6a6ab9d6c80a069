"""What a trial makes of a probe: its image, what the scorers say of it, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from PIL import Image

from optimizer.blocks import BlockWeights
from scoring.probes import Probe
from scoring.prompts.plain import plain_text
from scoring.rendering.renderer import probe_name
from scoring.scorers.base import Scorer, checked_scores


@dataclass(frozen=True)
class Rendered:
    """One probe under one trial: its image, each scorer's raw number, and its share of the batch's time.

    slopes: its share of the batch's slopes, their mean over the batch; None where they were not computed.
    """

    probe: int
    image: Image.Image
    scores: dict[str, float]
    seconds: float
    slopes: BlockWeights | None = None


@dataclass
class StageSeconds:
    """Where the time of the last trial went.

    render: without what `between_steps` took. overlap: in which a batch was scored while the next one was
    rendered; it counts in both, so that the device was busy for merge + render + score + slope - overlap.
    slope: of the backward passes.
    """

    merge: float = 0.0
    render: float = 0.0
    score: float = 0.0
    overlap: float = 0.0
    slope: float = 0.0

    def __add__(self, other: StageSeconds) -> StageSeconds:
        """Of both together."""
        return StageSeconds(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def score_images(scorer: Scorer, images: torch.Tensor, probes: Sequence[tuple[int, Probe]]) -> list[float]:
    """A scorer's raw numbers for images (N, 3, H, W) in [0, 1], as `judged`."""
    with torch.no_grad():
        scores: list[float] = judged(scorer, images, probes).tolist()
    return scores


def judged(scorer: Scorer, images: torch.Tensor, probes: Sequence[tuple[int, Probe]]) -> torch.Tensor:
    """A scorer's raw numbers (N,) for images (N, 3, H, W) in [0, 1], in the caller's grad mode.

    probes: what each image shows, and its place among the probes; the scorer is told their prompts without
    syntax. Raises TrialFailed as `checked_scores`.
    """
    names = [probe_name(i, probe) for i, probe in probes]
    prompts = [_asked_for(probe) for _, probe in probes]
    return checked_scores(scorer, images, prompts, names)


def _asked_for(probe: Probe) -> str:
    """What scorers are told that an image was to show."""
    if probe.hires is None:
        return plain_text(probe.prompt, probe.steps)
    prompt = probe.prompt if probe.hires.prompt is None else probe.hires.prompt
    return plain_text(prompt, probe.steps, probe.hires.steps or probe.steps)
