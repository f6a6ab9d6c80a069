"""What a sampler is told: the trials that ended."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from optimizer.blocks import BlockWeights
from optimizer.choices import Choices
from optimizer.racing import Estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ToldTrial:
    """A trial that ended. `score` is None when it failed: it then informs nobody.

    estimate: what is expected of one that was stopped before it had a score (optimizer/racing.py).
    slopes: d score / d alpha by block, at `weights`; None where they were not computed. choices: which
    options it had. seconds: what it took, its proposal included; None where that is not known.
    """

    number: int
    weights: BlockWeights
    score: float | None
    slopes: BlockWeights | None = None
    estimate: Estimate | None = None
    choices: Choices = field(default_factory=dict)
    seconds: float | None = None

    @property
    def informs(self) -> bool:
        """Whether a sampler learns from it."""
        return self.score is not None or self.estimate is not None


def score_of(trial: ToldTrial) -> float:
    """The score of a trial that has one."""
    assert trial.score is not None, "only trials with a score are told"
    return trial.score


def point(trial: ToldTrial, blocks: Sequence[str]) -> NDArray[np.float64]:
    """The weights of a trial as a vector in the order of `blocks`."""
    return np.array([trial.weights[block] for block in blocks])


def informative(history: Sequence[ToldTrial], most: int) -> list[ToldTrial]:
    """At most `most` of the trials, in the same order: the best ones, and as many of the latest others.

    history: trials with a score, by number.
    """
    best = sorted(history, key=score_of, reverse=True)[: most - most // 2]
    kept = {trial.number for trial in best}
    others = [trial for trial in history if trial.number not in kept]
    kept.update(trial.number for trial in others[max(0, len(others) - most // 2) :])
    return [trial for trial in history if trial.number in kept]


def seed_of(study_seed: int, number: int) -> int:
    """The seed, below 2**32, of what a sampler draws for trial `number`."""
    digest = hashlib.sha256(f"{study_seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
