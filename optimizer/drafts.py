"""Drafts: a trial is first rendered cheaply, with fewer steps or smaller, and whole only if that looks good.

How far the cheap score tells the real one is measured on the node itself. Its first trials after the
baselines are rendered both ways; when the ranks of the two scores agree, a later trial's draft predicts what
the whole would score, by a line of least squares with its error, and a trial that will hardly beat the best
one ends there (multi-fidelity search with a single cheap level; compare Kandasamy et al. 2016, "Gaussian
Process Bandit Optimisation with Multi-fidelity Evaluations"). Every few trials one is rendered whole in any
case, so that the agreement goes on being measured; when it is lost, no more drafts are made. Only whole
trials win.

Decisions are pure functions of stored scores: a search that was resumed makes the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from optimizer.racing import BEHIND, Estimate
from scoring.probes import Probe

# Ranks of fewer trials say nothing.
FEWEST = 8
# One trial in so many is rendered whole whatever its draft says.
WHOLE_EVERY = 6
_SIDE = 8  # pixels that a side is a multiple of


class DraftSettings(BaseModel):
    """How a draft differs from its trial: in steps, in size, or in both. It has no second pass."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: float = Field(default=0.5, gt=0, le=1, description="Share of a probe's steps.")
    size: float = Field(default=1.0, gt=0, le=1, description="Share of a probe's width and height.")
    agreement: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Spearman's rank correlation of drafts and whole trials below which no draft is made.",
    )

    @model_validator(mode="after")
    def _check_cheaper(self) -> DraftSettings:
        if self.steps == self.size == 1:
            raise ValueError("a draft with all steps at full size is the trial itself: lower steps or size")
        return self


@dataclass(frozen=True)
class Pair:
    """The two scores of a trial that was rendered both ways."""

    number: int
    draft: float
    whole: float


def draft_of(probe: Probe, settings: DraftSettings) -> Probe:
    """The probe as a draft renders it."""
    return probe.model_copy(
        update={
            "steps": max(1, round(settings.steps * probe.steps)),
            "width": _side(settings.size * probe.width),
            "height": _side(settings.size * probe.height),
            "hires": None,
        }
    )


def rank_agreement(pairs: Sequence[Pair]) -> float | None:
    """Spearman's rank correlation of draft and whole scores, -1..1.

    None for fewer than FEWEST pairs, and where all scores of one side are equal.
    """
    drafts, wholes = {pair.draft for pair in pairs}, {pair.whole for pair in pairs}
    if len(pairs) < FEWEST or len(drafts) == 1 or len(wholes) == 1:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr([pair.draft for pair in pairs], [pair.whole for pair in pairs]).statistic)


def expected_whole(draft: float, pairs: Sequence[Pair]) -> Estimate:
    """What a trial of this draft score would score whole, by a line through the pairs.

    pairs: at least FEWEST, whose drafts differ. The error is that of a prediction: the spread around the
    line, larger away from the middle of the drafts.
    """
    drafts = np.array([pair.draft for pair in pairs])
    wholes = np.array([pair.whole for pair in pairs])
    middle, spread = drafts.mean(), ((drafts - drafts.mean()) ** 2).sum()
    slope = ((drafts - middle) @ wholes) / spread
    score = wholes.mean() + slope * (draft - middle)
    rest = wholes - wholes.mean() - slope * (drafts - middle)
    deviation = math.sqrt(float(rest @ rest) / (len(pairs) - 2))
    error = deviation * math.sqrt(1 + 1 / len(pairs) + (draft - middle) ** 2 / spread)
    return Estimate(float(score), float(error), 0, None)


def is_drafted(number: int, first: int, agreement: float | None, settings: DraftSettings) -> bool:
    """Whether trial `number` gets a draft; first: the first trial that may have one.

    agreement: of the trials before it; None while too few were rendered both ways.
    """
    return number >= first and (agreement is None or agreement >= settings.agreement)


def is_whole_anyway(number: int) -> bool:
    """Whether a trial is rendered whole whatever its draft says."""
    return number % WHOLE_EVERY == 0


def falls_short(found: Estimate, best: float) -> bool:
    """Whether what is expected of a trial will hardly beat the best score."""
    return found.score < best - BEHIND * found.error


def _side(pixels: float) -> int:
    return max(_SIDE, _SIDE * round(pixels / _SIDE))
