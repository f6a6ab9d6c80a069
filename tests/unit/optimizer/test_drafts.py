"""Drafts decide by how their ranks agreed with those of whole trials."""

from __future__ import annotations

import random

import pytest
from pydantic import ValidationError

from optimizer.drafts import (
    FEWEST,
    DraftSettings,
    Pair,
    draft_of,
    expected_whole,
    falls_short,
    is_drafted,
    rank_agreement,
)
from optimizer.search import SearchSettings
from scoring.probes import Probe
from scoring.probes.probe import Hires


def pairs_of(noise: float, count: int = 40) -> list[Pair]:
    """Drafts that lie 0.1 below their trials, on a scale half as wide."""
    draw = random.Random(3)
    wholes = [draw.gauss(0.6, 0.02) for _ in range(count)]
    return [Pair(n, 0.2 + 0.5 * whole + draw.gauss(0, noise), whole) for n, whole in enumerate(wholes)]


def test_a_draft_has_fewer_steps_or_is_smaller_and_has_no_second_pass() -> None:
    probe = Probe(prompt="a cat", seed=1, steps=25, width=512, height=760, hires=Hires(scale=2.0))
    faster = draft_of(probe, DraftSettings())
    assert (faster.steps, faster.width, faster.height, faster.hires) == (12, 512, 760, None)
    smaller = draft_of(probe, DraftSettings(steps=1, size=0.5))
    assert (smaller.steps, smaller.width, smaller.height) == (25, 256, 384), "sides are multiples of 8"
    least = draft_of(Probe(prompt="a cat", seed=1, steps=1, width=8, height=8), DraftSettings(size=0.1))
    assert (least.steps, least.width, least.height) == (1, 8, 8)


def test_ranks_of_few_or_equal_scores_agree_in_nothing_that_is_known() -> None:
    assert rank_agreement(pairs_of(0)[: FEWEST - 1]) is None
    assert rank_agreement([Pair(n, 0.5, n) for n in range(20)]) is None
    assert rank_agreement(pairs_of(0)) == pytest.approx(1.0)
    noisy = rank_agreement(pairs_of(0.01))
    assert noisy is not None
    assert 0.4 < noisy < 0.95


def test_what_a_whole_trial_scores_is_expected_with_an_honest_error() -> None:
    exact = expected_whole(0.5, pairs_of(0))
    assert exact.score == pytest.approx(0.6)
    assert exact.error == pytest.approx(0, abs=1e-9)
    known, rest = pairs_of(0.004, 400)[:30], pairs_of(0.004, 400)[30:]
    within = [
        abs(found.score - pair.whole) <= found.error
        for pair in rest
        for found in [expected_whole(pair.draft, known)]
    ]
    assert 0.6 < sum(within) / len(within) < 0.8, "about two in three lie within one standard error"
    assert expected_whole(0.9, known).error > expected_whole(0.5, known).error


def test_a_trial_falls_short_when_it_will_hardly_beat_the_best() -> None:
    found = expected_whole(0.49, pairs_of(0.004))
    assert falls_short(found, found.score + 2 * found.error)
    assert not falls_short(found, found.score + found.error)


def test_drafts_are_made_until_they_are_known_to_say_nothing() -> None:
    settings = DraftSettings(agreement=0.5)
    assert not is_drafted(2, 3, None, settings), "baselines are whole"
    assert is_drafted(3, 3, None, settings)
    assert is_drafted(30, 3, 0.5, settings)
    assert not is_drafted(30, 3, 0.49, settings)


@pytest.mark.parametrize(
    "wrong", [{"steps": 1, "size": 1}, {"steps": 0}, {"size": 1.5}, {"agreement": -0.1}, {"step": 0.5}]
)
def test_a_draft_that_is_none_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        DraftSettings.model_validate(wrong)


def test_slopes_need_whole_trials() -> None:
    with pytest.raises(ValidationError, match="drafts do not go with sampler gradient"):
        SearchSettings(sampler="gradient", drafts=DraftSettings())
