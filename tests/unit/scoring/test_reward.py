from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scoring.errors import InputError
from scoring.reward import (
    TALLIES,
    TALLIES_OF_ANY_SIGN,
    Spread,
    combine,
    image_scores,
    measure,
    tally,
)
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


CLIP, LAION = ScorerSpec(scorer="clip"), ScorerSpec(scorer="laion")
# clip: mean 0.3, deviations -0.1, 0, 0.1: s = sqrt(0.02 / 2) = 0.1; laion: mean 6, -2, 2, 0: s = 2.
REFERENCE = [{"clip": 0.2, "laion": 4.0}, {"clip": 0.3, "laion": 8.0}, {"clip": 0.4, "laion": 6.0}]


def test_a_scale_is_the_mean_and_the_sample_deviation_of_the_reference() -> None:
    scale = measure(REFERENCE, [CLIP, LAION])
    assert [scale["clip"].centre, scale["clip"].spread] == pytest.approx([0.3, 0.1])
    assert [scale["laion"].centre, scale["laion"].spread] == pytest.approx([6.0, 2.0])


def test_normalised_scorers_count_by_their_spread() -> None:
    scale = measure(REFERENCE, [CLIP, LAION])
    # (0.45 - 0.3) / 0.1 = 1.5 and (5 - 6) / 2 = -0.5: their mean is 0.5, and weighed 3 to 1 it is 1.
    assert combine({"clip": 0.45, "laion": 5.0}, [CLIP, LAION], scale) == pytest.approx(0.5)
    heavy = CLIP.model_copy(update={"weight": 3.0})
    assert combine({"clip": 0.45, "laion": 5.0}, [heavy, LAION], scale) == pytest.approx(1.0)
    turned = LAION.model_copy(update={"reverse": True})
    assert combine({"clip": 0.45, "laion": 5.0}, [CLIP, turned], scale) == pytest.approx(1.0)


def test_the_reference_itself_scores_0_in_the_mean() -> None:
    scores = image_scores(REFERENCE, [CLIP, LAION], measure(REFERENCE, [CLIP, LAION]))
    assert scores == pytest.approx([(-1 - 1) / 2, (0 + 1) / 2, (1 + 0) / 2])
    assert tally("arithmetic", scores) == pytest.approx(0, abs=1e-12)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8),
    st.floats(0.01, 100),
    st.floats(-50, 50),
)
def test_another_unit_of_a_scorer_changes_no_normalised_score(
    numbers: list[tuple[float, float]], factor: float, shift: float
) -> None:
    reference = [{"clip": x, "laion": y} for x, y in numbers]
    for name in ("clip", "laion"):
        if max(r[name] for r in reference) - min(r[name] for r in reference) < 0.01:
            return
    other = [{"clip": r["clip"] * factor + shift, "laion": r["laion"]} for r in reference]
    here = image_scores(reference, [CLIP, LAION], measure(reference, [CLIP, LAION]))
    there = image_scores(other, [CLIP, LAION], measure(other, [CLIP, LAION]))
    assert there == pytest.approx(here, rel=1e-6, abs=1e-6)


def test_raw_numbers_are_weighed_as_they_are() -> None:
    assert image_scores([{"clip": 0.25, "laion": 5.0, "watched": 9.0}], [CLIP, LAION]) == [(0.25 + 5) / 2]


def test_a_scale_needs_images_that_differ() -> None:
    with pytest.raises(InputError, match=r"there is 1; give two probes or more .* or normalise: false"):
        measure(REFERENCE[:1], [CLIP])
    for same in (5.0, 5.0 + 1e-7):
        with pytest.raises(InputError, match="clip gives all 2 images of the reference 5: it has no spread"):
            measure([{"clip": 5.0}, {"clip": same}], [CLIP])
    with pytest.raises(InputError, match="1 of the 2 images of the reference lack a number of laion"):
        measure([{"clip": 5.0, "laion": 1.0}, {"clip": 4.0}], [CLIP, LAION])


def test_tallies_of_any_sign_take_what_lies_below_0() -> None:
    for name in TALLIES:
        if name in TALLIES_OF_ANY_SIGN:
            tally(name, [-1.0, 0.0, 1.0])
        else:
            with pytest.raises(InputError):
                tally(name, [-1.0, 0.0, 1.0])


def test_a_spread_counts_in_its_own_units() -> None:
    assert Spread(centre=6.0, spread=2.0).normalised(9.0) == 1.5
