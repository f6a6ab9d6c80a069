from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scoring.errors import InputError
from scoring.reward import TALLIES, combine, tally
from scoring.scorers.base import ScorerSpec

POSITIVE = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # scores 1, 2, 4, worked out by hand: A = 7/3, G = 8 ** (1/3) = 2, H = 3 / (1 + 1/2 + 1/4) = 12/7
        ("arithmetic", 7 / 3),
        ("geometric", 2.0),
        ("harmonic", 12 / 7),
        ("quadratic", math.sqrt(21 / 3)),
        ("cubic", (73 / 3) ** (1 / 3)),
        ("A/G", 49 / 18),
        ("G/H", 4 * 7 / 12),
        ("A/H", (49 / 9) * (7 / 12)),
        ("median", 2.0),
        ("min", 1.0),
        ("max", 4.0),
        ("mid-range", 2.5),
    ],
)
def test_each_tally_of_1_2_4(name: str, expected: float) -> None:
    assert tally(name, [4.0, 1.0, 2.0]) == pytest.approx(expected, rel=1e-12)


def test_there_are_twelve() -> None:
    assert len(TALLIES) == 12


@pytest.mark.parametrize("name", TALLIES)
def test_one_score_tallies_to_itself(name: str) -> None:
    assert tally(name, [3.5]) == pytest.approx(3.5, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "scores", "expected"),
    [
        ("arithmetic", [-1.0, 0.0, 4.0], 1.0),
        ("median", [-1.0, 0.0, 4.0, 6.0], 2.0),
        ("mid-range", [-3.0, 0.0, 1.0], -1.0),
        ("cubic", [-2.0, -2.0], -2.0),
        ("cubic", [-2.0, 2.0], 0.0),
        ("harmonic", [0.0, 4.0], 0.0),
        ("quadratic", [0.0, 4.0], math.sqrt(8)),
    ],
)
def test_scores_below_one(name: str, scores: Sequence[float], expected: float) -> None:
    assert tally(name, scores) == pytest.approx(expected, abs=1e-12)


@given(POSITIVE)
def test_the_means_are_in_order(scores: list[float]) -> None:
    order = ["min", "harmonic", "geometric", "arithmetic", "quadratic", "cubic", "max"]
    means = [tally(name, scores) for name in order]
    for lower, higher in pairwise(means):
        assert lower <= higher * (1 + 1e-9)


@given(POSITIVE, st.floats(0.01, 100))
def test_every_tally_scales_with_the_scores(scores: list[float], factor: float) -> None:
    for name in TALLIES:
        scaled = tally(name, [score * factor for score in scores])
        assert scaled == pytest.approx(tally(name, scores) * factor, rel=1e-6)


@given(POSITIVE, st.randoms())
def test_the_order_of_the_images_does_not_matter(scores: list[float], random: object) -> None:
    mixed = list(scores)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    for name in TALLIES:
        assert tally(name, mixed) == pytest.approx(tally(name, scores), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "scores", "said"),
    [
        ("mean", [1.0], "unknown tally 'mean'; known tallies: arithmetic, geometric"),
        ("arithmetic", [], "no scores"),
        ("geometric", [1.0, 0.0], "needs positive scores, one is 0.0"),
        ("A/G", [1.0, -1.0], "needs positive scores"),
        ("G/H", [0.0], "needs positive scores"),
        ("A/H", [0.0, 1.0], "needs positive scores"),
        ("harmonic", [1.0, -0.1], "needs non-negative scores, one is -0.1"),
        ("quadratic", [1.0, -0.1], "needs non-negative scores"),
    ],
)
def test_tallies_refuse_what_they_cannot_take(name: str, scores: list[float], said: str) -> None:
    with pytest.raises(InputError) as caught:
        tally(name, scores)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", TALLIES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_tally_takes_what_is_not_finite(name: str, bad: float) -> None:
    with pytest.raises(InputError, match="score 1 is"):
        tally(name, [1.0, bad, 2.0])


def test_scorers_are_combined_by_weight_and_sign() -> None:
    specs = [ScorerSpec(scorer="clip", weight=3.0), ScorerSpec(scorer="noise", reverse=True)]
    assert combine({"clip": 0.5, "noise": 0.1}, specs) == pytest.approx((3 * 0.5 - 0.1) / 4)


def test_one_scorer_combines_to_its_score() -> None:
    assert combine({"clip": 0.3}, [ScorerSpec(scorer="clip", weight=7.0)]) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("scores", "names", "said"),
    [
        ({}, [], "no scorers"),
        ({"a": 1.0}, ["a", "a"], "named twice: a"),
        ({"a": 1.0}, ["a", "b"], "give one of each"),
        ({"a": 1.0, "b": 1.0}, ["a"], "give one of each"),
        ({"a": math.nan}, ["a"], "is nan"),
    ],
)
def test_scores_and_scorers_must_fit(scores: dict[str, float], names: list[str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        combine(scores, [ScorerSpec(scorer=name) for name in names])
    assert said in str(caught.value)


@pytest.mark.parametrize("wrong", [{"weight": 0}, {"weight": -1}, {"weight": math.nan}, {"wieght": 1}])
def test_wrong_scorer_specs_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        ScorerSpec.model_validate({"scorer": "clip", **wrong})
