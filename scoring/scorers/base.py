"""What a scorer is, and how one is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from scoring.errors import TrialFailed

# Only the annotations need torch, which takes seconds to import: listing scorers should not pay for it.
if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class Scorer(Protocol):
    """Judges images.

    name: the registered name. differentiable: whether gradients reach the images through `score`.
    """

    name: str
    differentiable: bool

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """One score an image, higher is better: (N,) float32 for images (N, 3, H, W) in [0, 1].

        prompts: what each image was to show; scorers of looks alone ignore them.
        """
        ...


class ScorerSpec(BaseModel):
    """A scorer that a user asks for.

    scorer: its registered name. weight: > 0, its share in the weighted mean. model: where its weights are,
    a path in the scorers folder or the id of a model in the hub cache; the folder of the scorer's own name
    unless given (its card says what it needs). label: whose probability is the score, for a classifier.
    reverse: lower is better. sigmoid: press the number into 0..1 as auto-MBW-rt does, for the scorers whose
    card names the middle.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scorer: str
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    model: str | None = None
    label: str | None = None
    reverse: bool = False
    sigmoid: bool = False


class Squashed:
    """A scorer whose number x is given as 1 / (1 + exp(middle - x)), 0..1."""

    def __init__(self, scorer: Scorer, middle: float) -> None:
        self.name, self.differentiable = scorer.name, scorer.differentiable
        self._scorer, self._middle = scorer, middle

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return (self._scorer.score(images, prompts) - self._middle).sigmoid()


def checked_scores(
    scorer: Scorer, images: Tensor, prompts: Sequence[str], names: Sequence[str] | None = None
) -> Tensor:
    """`scorer.score`, held to its promise: raises TrialFailed, naming the scorer, when it fails, returns
    another number of scores than images, or a score that is not finite.

    names: what each image is called in the reason; its prompt unless given.
    """
    try:
        scores = scorer.score(images, prompts)
    except (RuntimeError, ValueError, TypeError, IndexError, OSError) as error:
        raise TrialFailed(f"scorer {scorer.name!r} failed: {error}") from error
    if scores.shape != (len(images),):
        raise TrialFailed(
            f"scorer {scorer.name!r} gave scores of shape {tuple(scores.shape)} for {len(images)} images"
        )
    for name, score in zip(names or prompts, scores.tolist(), strict=True):
        if not math.isfinite(score):
            raise TrialFailed(f"scorer {scorer.name!r} gave {score} for {name}: not a finite number")
    return scores
