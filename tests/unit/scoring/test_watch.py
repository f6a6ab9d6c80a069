"""When a trial is called suspicious: worked out by hand, and against scipy's own tests."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_rel

from scoring.scorers.base import ScorerSpec
from scoring.watch import CHANCE, GUARD_CHANGE, Judged, paired, relative, watch_warnings

OPINION = ScorerSpec(scorer="second")
SHARPNESS = ScorerSpec(scorer="sharpness")


def judged(name: str, score: float, **numbers: Sequence[float]) -> Judged:
    rows = zip(*numbers.values(), strict=True)
    return Judged(name, score, [dict(zip(numbers, row, strict=True)) for row in rows])


def opinion(
    score: float, now: Sequence[float], before: Sequence[float], *, reverse: bool = False
) -> list[str]:
    """What is said of a second opinion against one baseline of the score 0.3."""
    spec = OPINION.model_copy(update={"reverse": reverse})
    return watch_warnings(judged("t", score, second=now), [judged("A", 0.3, second=before)], [spec], [])


def guard(now: Sequence[float], *baselines: Sequence[float]) -> list[str]:
    """What is said of a guard in a trial whose score rose."""
    others = [judged("AB"[i], 0.1 + 0.1 * i, sharpness=numbers) for i, numbers in enumerate(baselines)]
    return watch_warnings(judged("t", 0.9, sharpness=now), others, [SHARPNESS], ["sharpness"])


def test_paired_differences_by_hand() -> None:
    change = paired([1.0, 2.0, 3.0, 6.0])
    # mean 3; squares 4 + 1 + 0 + 9 = 14, s = sqrt(14 / 3), error = s / 2
    assert change.mean == 3.0
    assert change.error == pytest.approx(math.sqrt(14 / 3) / 2)
    assert change.times == pytest.approx(6 / math.sqrt(14 / 3))


def test_a_second_opinion_that_falls_with_a_rising_score_is_told_in_words() -> None:
    before = [5.0, 6.0, 7.0, 8.0, 5.0, 6.0]
    # d = -1, -1.2, -0.8, -1, -1.1, -0.9: mean -1, squares 0.04 * 2 + 0.01 * 2 = 0.1,
    # s = sqrt(0.1 / 5), error = s / sqrt(6) = 0.0577, t = -17.3
    now = [4.0, 4.8, 6.2, 7.0, 3.9, 5.1]
    assert opinion(0.312, now, before) == [
        "score rose by 0.012 above A while second fell by 1 to 5.17, 17.3 times its standard error: look at "
        "the images"
    ]
    assert opinion(0.3, now, before) == [], "the score did not rise"
    assert opinion(0.312, before, now) == [], "the second opinion rose too"


def test_of_a_reversed_second_opinion_less_is_better() -> None:
    before = [5.0, 6.0, 7.0, 8.0, 5.0, 6.0]
    worse = [6.0, 7.2, 7.8, 9.0, 6.1, 6.9]
    (said,) = opinion(0.4, worse, before, reverse=True)
    assert "second rose by 1 to 7.17 (lower is better), 17.3 times" in said
    assert opinion(0.4, before, worse, reverse=True) == []


def test_a_fall_too_small_to_mean_anything_is_not_told() -> None:
    before = [float(i) for i in range(100)]  # deviation 29.0: a fall below 5.8 is small
    noise = random.Random(1)
    small = [x - 5 + 0.1 * noise.random() for x in before]
    assert not paired([x - y for x, y in zip(small, before, strict=True)]).is_chance()
    assert opinion(0.4, small, before) == []
    assert opinion(0.4, [x - 2 for x in small], before) != []


@given(st.lists(st.floats(-3, 2), min_size=2, max_size=12))
def test_chance_is_what_scipys_paired_test_says(differences: list[float]) -> None:
    before = [float(i % 5) for i in range(len(differences))]
    now = [x + d for x, d in zip(before, differences, strict=True)]
    change = paired([x - y for x, y in zip(now, before, strict=True)])
    assume(change.error > 1e-6 and abs(change.mean) > 1e-6)
    side = "less" if change.mean < 0 else "greater"
    expected = ttest_rel(now, before, alternative=side)
    assert change.times == pytest.approx(expected.statistic, rel=1e-6)
    assume(abs(expected.pvalue - CHANCE) > 1e-9)
    assert change.is_chance() == (expected.pvalue > CHANCE)


def test_one_probe_and_no_change_tell_nothing() -> None:
    assert opinion(0.4, [1.0], [9.0]) == []
    assert guard([1.0], [9.0]) == []
    assert paired([0.0, 0.0]).is_chance()
    assert not paired([-1.0, -1.0]).is_chance(), "all probes fell by the same"


def test_a_guard_is_compared_relatively_because_prompts_differ_by_powers_of_ten() -> None:
    before = [10.0, 100.0, 1000.0, 10000.0, 50.0, 500.0]
    fallen = [x * f for x, f in zip(before, (0.7, 0.72, 0.68, 0.7, 0.71, 0.69), strict=True)]
    # d of x / y = 0.7 is 2 * -0.3 / 1.7 = -0.353, near which the mean lies; (2 + d) / (2 - d) = 0.7
    (said,) = guard(fallen, before)
    assert said.startswith(
        "score rose by 0.8 above A while sharpness fell by 30 % from the lowest of the baselines (A)"
    )
    differences = [2 * (x - y) / (x + y) for x, y in zip(fallen, before, strict=True)]
    assert relative(fallen, before) == pytest.approx(differences)
    assert f"{-ttest_1samp(differences, 0).statistic:.1f} times its standard error" in said


def test_a_guard_is_watched_both_ways() -> None:
    before = [20.0, 30.0, 25.0, 35.0, 40.0]
    (said,) = guard([x * 1.5 + i / 10 for i, x in enumerate(before)], before)
    assert "sharpness rose by 51 % from the highest of the baselines (A)" in said


def test_between_the_baselines_a_guard_says_nothing() -> None:
    sharp, soft = [40.0, 50.0, 60.0, 70.0, 80.0], [20.0, 25.0, 30.0, 35.0, 40.0]
    between = [30.0, 37.0, 45.0, 53.0, 60.0]
    assert guard(between, sharp, soft) == []
    (said,) = guard([10.0, 12.0, 15.0, 17.0, 20.0], sharp, soft)
    assert "fell by 51 % from the lowest of the baselines (B)" in said
    assert said.startswith("score rose by 0.7 above B"), "the baseline of the best score"


def test_a_small_change_of_a_guard_is_not_told() -> None:
    before = [20.0, 30.0, 25.0, 35.0, 40.0]
    assert guard([x * (1 - GUARD_CHANGE * 0.9) for x in before], before) == []
    assert guard([x * (1 - GUARD_CHANGE * 1.2) for x in before], before) != []


def test_a_guard_at_nothing() -> None:
    assert relative([0.0, 1.0, 0.0], [0.0, 0.0, 2.0]) == [0.0, 2.0, -2.0]
    (said,) = guard([3.0, 2.0, 4.0], [0.0, 0.0, 0.0])
    assert "sharpness rose from nothing" in said
    (said,) = guard([0.0, 0.0, 0.0], [3.0, 2.0, 4.0])
    assert "sharpness fell by 100 % from the lowest of the baselines (A), by nearly the same on every" in said


def test_every_watched_scorer_is_told_of_alone() -> None:
    before = judged("uniform", 1.0, second=[5.0, 6.0, 7.0, 8.0], sharpness=[9.0, 8.0, 7.0, 6.0])
    now = judged("t", 2.0, second=[1.0, 2.0, 3.0, 4.1], sharpness=[1.0, 0.9, 0.8, 0.7])
    said = watch_warnings(now, [before], [OPINION, SHARPNESS], ["sharpness"])
    assert [words.split(" while ")[1].split()[0] for words in said] == ["second", "sharpness"]


def test_without_a_baseline_there_is_nothing_to_compare_with() -> None:
    assert watch_warnings(judged("t", 2.0, second=[1.0, 2.0]), [], [OPINION], []) == []
