"""What going on is worth: said late enough, true where the truth is known, and enough to stop on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from optimizer.blocks import BLOCKS, uniform
from optimizer.going_on import AHEAD, FEWEST, between, gain_of_more_alike, gains_of_a_process
from optimizer.racing import Estimate
from optimizer.search import (
    BASELINES,
    FORESEEING,
    SamplerName,
    SearchSettings,
    ToldTrial,
    expected_gain,
    stop_reason,
)
from optimizer.space import SpaceSettings

Score = Callable[[dict[str, float]], float]
SAMPLERS: tuple[SamplerName, ...] = ("gp", "tpe", "cmaes", "random")


def bowl(weights: dict[str, float]) -> float:
    """Best in the corner where every weight is 0.8."""
    return 0.6 - sum((alpha - 0.8) ** 2 for alpha in weights.values()) / len(weights)


def searched(trials: int, score: Score = bowl, *, seconds: float = 36.0, seed: int = 0) -> list[ToldTrial]:
    """The baselines, then draws; each took `seconds`."""
    draw = np.random.default_rng(seed)
    points = [uniform(BLOCKS, alpha) for alpha in BASELINES.values()]
    points += [dict(zip(BLOCKS, map(float, draw.random(len(BLOCKS))), strict=True)) for _ in range(trials)]
    told = [ToldTrial(n, weights, score(weights), seconds=seconds) for n, weights in enumerate(points)]
    return told[:trials]


def test_too_few_scored_proposals_tell_nothing() -> None:
    told = searched(len(BASELINES) + FEWEST)
    assert expected_gain(SearchSettings(), told[:-1]) is None
    assert expected_gain(SearchSettings(), told) is not None
    failed = [replace(trial, score=None) if trial.number == 5 else trial for trial in told]
    assert expected_gain(SearchSettings(), failed) is None
    # A start point is nothing that the sampler proposed.
    start = SearchSettings(start=[uniform(BLOCKS, 0.3)])
    assert expected_gain(start, told) is None


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_best_and_the_latest_of_many_trials_say_the_same_as_all(sampler: SamplerName) -> None:
    settings, told = SearchSettings(sampler=sampler, trials=2000), searched(1200)
    best = sorted(told, key=lambda trial: (-bowl(trial.weights), trial.number))[:FORESEEING]
    kept = {trial.number for trial in (*best, *told[-FORESEEING:])}
    assert len(kept) < 800
    few = [trial for trial in told if trial.number in kept]
    assert expected_gain(settings, few) == expected_gain(settings, told)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_trials_always_give_the_same_numbers(sampler: SamplerName) -> None:
    settings, told = SearchSettings(sampler=sampler), searched(30)
    found = expected_gain(settings, told)
    assert found is not None
    assert found == expected_gain(settings, told)
    assert 0 < found.next_gain < found.gain < AHEAD * found.next_gain
    assert (found.trials, found.seconds) == (AHEAD, 36.0)
    assert found.gain_per_hour == pytest.approx(found.gain * 10)  # ten trials are a tenth of an hour


def test_more_of_the_same_gains_about_what_draws_gain_on_the_average() -> None:
    draw = np.random.default_rng(0)
    more = np.maximum(draw.normal(0.5, 0.02, (20_000, 10)).max(1) - 0.53, 0).mean()
    told = [gain_of_more_alike(draw.normal(0.5, 0.02, 60), 0.53, 10) for _ in range(400)]
    assert np.mean(told) == pytest.approx(more, rel=0.35)
    assert gain_of_more_alike(np.full(20, 0.5), 0.5, 10) == 0


def test_what_failed_far_below_does_not_promise_more() -> None:
    scores = np.random.default_rng(1).normal(0.5, 0.02, 40)
    broken = scores.copy()
    broken[np.argsort(scores)[:5]] = 0.1
    assert gain_of_more_alike(broken, 0.55, 10) == gain_of_more_alike(scores, 0.55, 10)


def test_a_process_that_sees_a_slope_expects_what_lies_up_it() -> None:
    points = np.random.default_rng(0).random((40, 4))
    scores = points @ np.array([1.0, 0.5, 0.0, 0.0])
    best = float(scores.max())
    one, ten = gains_of_a_process(points, scores, best, [1, 10])
    assert 0 < one < ten
    assert ten == pytest.approx(1.5 - best, rel=0.35)
    # Beside its peak there is nothing left to gain.
    peaked = -((points - 0.5) ** 2).sum(1)
    near = np.concatenate([points, np.full((1, 4), 0.5)])
    (little,) = gains_of_a_process(near, np.append(peaked, 0.0), 0.0, [10])
    assert little < 0.05 * peaked.std()


def test_in_between_is_the_geometric_mean() -> None:
    assert between([1.0, 4.0], [4.0, 0.0]) == [2.0, 0.0]


def test_a_search_that_nears_the_peak_expects_less_and_less() -> None:
    told = searched(60)
    # As a sampler does that has found where the peak is: ever closer to it.
    near = [
        replace(t, weights={b: 0.8 + (alpha - 0.8) * 0.9**t.number for b, alpha in t.weights.items()})
        for t in told
    ]
    near = [replace(trial, score=bowl(trial.weights)) for trial in near]
    for sampler in SAMPLERS:
        settings = SearchSettings(sampler=sampler)
        expected = [found.gain for n in (15, 30, 60) if (found := expected_gain(settings, near[:n]))]
        assert len(expected) == 3
        assert all(later < earlier for earlier, later in pairwise(expected))


def test_the_search_ends_where_less_is_to_be_gained_than_was_asked_for() -> None:
    told = searched(40)
    found = expected_gain(SearchSettings(), told)
    assert found is not None
    assert found.gain_per_hour is not None
    above, below = 1.01 * found.gain_per_hour, 0.99 * found.gain_per_hour
    assert stop_reason(SearchSettings(until_gain_per_hour=below), told, 0.0) is None
    reason = str(stop_reason(SearchSettings(until_gain_per_hour=above), told, 0.0))
    assert f"{found.gain:.3g} in the next 10 trials, {found.gain_per_hour:.3g} an hour" in reason
    assert f"less than the {above:g}" in reason
    # It needs to know: neither before enough proposals, nor without the times that they took.
    rule = SearchSettings(until_gain_per_hour=1e9)
    assert stop_reason(rule, told[: len(BASELINES) + FEWEST - 1], 0.0) is None
    assert stop_reason(rule, [replace(trial, seconds=None) for trial in told], 0.0) is None


def test_an_hour_holds_as_many_trials_as_the_latest_took() -> None:
    slow = searched(40, seconds=72.0)
    mixed = [replace(trial, seconds=1.0) if trial.number < 30 else trial for trial in slow]
    one, two = expected_gain(SearchSettings(), slow), expected_gain(SearchSettings(), mixed)
    assert one == two


def test_trials_that_racing_stopped_and_blocks_that_are_frozen_take_part() -> None:
    told = searched(30)
    stopped = [
        replace(t, score=None, estimate=Estimate(t.score or 0.0, 0.01, 4, 0.01)) if 10 <= t.number < 20 else t
        for t in told
    ]
    assert expected_gain(SearchSettings(), stopped) == expected_gain(SearchSettings(), told)
    space = SpaceSettings(freeze=dict.fromkeys(BLOCKS[1:], 0.5)).resolved(BLOCKS)
    frozen = [replace(t, weights={**uniform(BLOCKS, 0.5), "IN00": t.weights["IN00"]}) for t in told]
    frozen = [replace(t, score=bowl(t.weights)) for t in frozen]
    found = expected_gain(SearchSettings(space=space), frozen)
    assert found is not None
    assert found.gain < 1e-3


def test_scores_that_do_not_differ_promise_nothing() -> None:
    found = expected_gain(SearchSettings(), searched(20, lambda _: 0.5))
    assert found is not None
    assert found.gain == 0


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "soon"])
def test_a_rule_that_is_no_gain_is_refused(wrong: object) -> None:
    with pytest.raises(ValidationError, match="until_gain_per_hour"):
        SearchSettings.model_validate({"until_gain_per_hour": wrong})


def test_a_thousand_trials_cost_no_more_than_a_part_of_a_second() -> None:

    told = searched(1000)
    expected_gain(SearchSettings(), told)
    began = time.process_time()
    expected_gain(SearchSettings(), told)
    assert time.process_time() - began < 1.0
