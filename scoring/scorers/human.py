"""The scorer `human`: people compare two images of the same probe, and their votes are the score.

It cannot score one image, so it is never created: who renders leaves it out, and the trial waits for votes.
Its number is a trial's strength (scoring/bradley_terry.py) above that of the uniform merge, in logits, the
same for every image of the trial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from scoring.errors import InputError
from scoring.reward import Spread
from scoring.scorers.base import ScorerSpec

if TYPE_CHECKING:
    import torch

HUMAN = "human"
SPREAD = Spread(centre=0.0, spread=1.0)
"""What its numbers are measured by beside other scorers: a preference of e to 1 (73 %) over the uniform merge
counts as much as one standard deviation of an automatic scorer over the reference's images."""


def create(_spec: ScorerSpec, _device: torch.device) -> NoReturn:
    """Raises InputError: there is nothing that could score an image."""
    raise InputError(
        f"scorer {HUMAN!r}: people compare the trials of a search, two images at a time, and no image alone "
        "has their score; name it under `scorers:` of a job"
    )
