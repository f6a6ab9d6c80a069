"""Trials that are made but not scored yet, as a sampler is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from optimizer.search import SearchSettings, ToldTrial

_BY_GENERATION = ("cmaes",)


def with_pending(
    settings: SearchSettings, told: Sequence[ToldTrial], pending: Sequence[ToldTrial]
) -> list[ToldTrial]:
    """The trials that ended and those that wait for their score, as the next proposal knows them.

    A sampler that models the scores would propose nearly the same point again and again until it is told of
    the first: so it is told that each waiting trial is as good as the mean of those with a score (the
    constant liar of Ginsbourger, Le Riche & Carraro 2010). CMA-ES draws its generation at random and learns
    from true scores alone.
    """
    scores = [trial.score for trial in told if trial.score is not None]
    if not scores or settings.sampler in _BY_GENERATION:
        return [*told, *pending]
    believed = fmean(scores)
    return [*told, *(replace(trial, score=believed) for trial in pending)]
