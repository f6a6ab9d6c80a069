"""The search of one pair: baselines, purity, stopping."""

from __future__ import annotations

import math
import random
import time

import pytest
import torch
from pydantic import ValidationError

from optimizer.samplers.told import informative
from optimizer.search import (
    BASELINES,
    MOST_TOLD,
    SamplerName,
    SearchSettings,
    ToldTrial,
    best_trial,
    propose,
    stop_reason,
)

BLOCKS = ("IN00", "IN01", "M00", "OUT05")
PEAK = {"IN00": 0.2, "IN01": 0.8, "M00": 0.4, "OUT05": 0.6}


def height(weights: dict[str, float]) -> float:
    """A smooth hill with its top at PEAK."""
    return math.exp(-sum((weights[b] - PEAK[b]) ** 2 for b in PEAK))


def run(settings: SearchSettings, told: list[ToldTrial], until: int) -> list[ToldTrial]:
    told = list(told)
    while len(told) < until:
        number = len(told)
        weights = propose(settings, BLOCKS, number, told)
        told.append(ToldTrial(number, weights, None if number == 5 else height(weights)))
    return told


def test_first_trials_are_the_baselines() -> None:
    for number, alpha in enumerate(BASELINES.values()):
        assert propose(SearchSettings(), BLOCKS, number, []) == dict.fromkeys(BLOCKS, alpha)


@pytest.mark.parametrize("sampler", ["gp", "tpe", "cmaes", "random"])
def test_a_resumed_search_proposes_what_an_undisturbed_one_does(sampler: SamplerName) -> None:
    settings = SearchSettings(sampler=sampler, seed=7)
    undisturbed = run(settings, [], 16)
    killed_often: list[ToldTrial] = []
    for stop in (1, 4, 6, 7, 12, 16):
        killed_often = run(settings, [ToldTrial(**vars(t)) for t in killed_often], stop)
    assert killed_often == undisturbed


def test_an_evolution_goes_on_where_it_was_cut_short_with_failed_trials_in_it() -> None:
    settings = SearchSettings(sampler="cmaes", seed=7, trials=200)
    undisturbed = run(settings, [], 80)
    again = run(settings, [ToldTrial(**vars(t)) for t in undisturbed[:50]], 80)
    assert again == undisturbed


@pytest.mark.parametrize("sampler", ["gp", "tpe", "cmaes", "random"])
def test_weights_lie_in_the_unit_interval_and_differ_between_seeds(sampler: SamplerName) -> None:
    one = run(SearchSettings(sampler=sampler, seed=1), [], 8)
    two = run(SearchSettings(sampler=sampler, seed=2), [], 8)
    assert all(0 <= w <= 1 for t in one for w in t.weights.values())
    assert one[7].weights != two[7].weights
    assert list(one[7].weights) == list(BLOCKS)


def test_the_order_in_which_trials_are_told_does_not_matter() -> None:
    settings = SearchSettings(seed=3)
    told = run(settings, [], 14)
    assert propose(settings, BLOCKS, 14, told) == propose(settings, BLOCKS, 14, told[::-1])


def test_the_default_sampler_climbs_the_hill() -> None:
    told = run(SearchSettings(), [], 30)
    best = best_trial(told)
    assert best is not None
    assert best.score is not None
    assert best.score > 0.97
    assert best.score > max(height(dict.fromkeys(BLOCKS, alpha)) for alpha in BASELINES.values())


def test_an_evolution_climbs_the_hill_and_begins_again_once_it_has_converged() -> None:
    settings = SearchSettings(sampler="cmaes", trials=450)
    told: list[ToldTrial] = []
    for number in range(450):
        weights = propose(settings, ["M00"], number, told)
        told.append(ToldTrial(number, weights, -((weights["M00"] - 0.3) ** 2)))
    best = best_trial(told)
    assert best is not None
    assert best.weights["M00"] == pytest.approx(0.3, abs=1e-6)
    spreads = [spread(told[start : start + 12]) for start in range(3, 450, 12)]
    converged = next(i for i, width in enumerate(spreads) if width < 1e-5)
    assert max(spreads[converged + 1 :]) > 0.1


def spread(trials: list[ToldTrial]) -> float:
    alphas = [trial.weights["M00"] for trial in trials]
    return max(alphas) - min(alphas)


def history(trials: int) -> list[ToldTrial]:
    """Trials at random places, one in seven of which failed."""
    draw = random.Random(1)
    told = []
    for number in range(trials):
        weights = {block: draw.random() for block in BLOCKS}
        told.append(ToldTrial(number, weights, None if number % 7 == 6 else height(weights)))
    return told


def test_the_best_and_the_latest_trials_inform() -> None:
    scored = [ToldTrial(n, {}, float(score)) for n, score in enumerate([9, 1, 8, 2, 8, 3, 4, 5, 6, 7])]
    assert [t.number for t in informative(scored, 4)] == [0, 2, 8, 9]
    assert [t.number for t in informative(scored, 5)] == [0, 2, 4, 8, 9]
    assert informative(scored, 10) == informative(scored, 11) == scored
    assert informative(scored, 0) == []


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_a_sampler_is_told_no_more_than_informs_it(
    sampler: SamplerName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MOST_TOLD, sampler, 40)
    settings, told = SearchSettings(sampler=sampler), history(120)
    scored = [trial for trial in told if trial.score is not None]
    kept = informative(scored, 40)
    assert len(kept) == 40
    proposed = propose(settings, BLOCKS, 120, told)
    assert proposed == propose(settings, BLOCKS, 120, kept)
    assert proposed != propose(settings, BLOCKS, 120, [t for t in kept if t != best_trial(kept)])
    assert proposed == propose(settings, BLOCKS, 120, told[::-1])


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random"])
def test_ten_thousand_trials_do_not_slow_a_search_down(sampler: SamplerName) -> None:
    told = history(10_000)
    started = time.process_time()
    propose(SearchSettings(sampler=sampler, trials=20_000), BLOCKS, 10_000, told)
    # It takes less than a second; telling them all to Optuna's CMA-ES takes minutes.
    assert time.process_time() - started < 10


def test_a_proposal_gives_back_the_threads_it_found() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        propose(SearchSettings(), BLOCKS, 20, history(20))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_the_best_trial_is_the_earliest_of_equals_and_never_a_failed_one() -> None:
    told = [ToldTrial(0, {}, None), ToldTrial(1, {}, 0.5), ToldTrial(2, {}, 0.5), ToldTrial(3, {}, -1)]
    assert best_trial(told) == told[1]
    assert best_trial(told[:1]) is None


def test_a_search_stops_at_the_first_of_its_budgets() -> None:
    flat = [ToldTrial(n, {}, 1.0 if n == 1 else 0.0) for n in range(10)]
    assert stop_reason(SearchSettings(trials=11), flat, 0) is None
    assert "10 trials" in str(stop_reason(SearchSettings(trials=10), flat, 0))
    assert "time budget of 5 s" in str(stop_reason(SearchSettings(trials=99, seconds=5), flat, 5))
    # Trials 3..9 did not improve; the baselines themselves never count against the patience.
    assert "7 trials" in str(stop_reason(SearchSettings(trials=99, patience=7), flat, 0))
    assert stop_reason(SearchSettings(trials=99, patience=8), flat, 0) is None


@pytest.mark.parametrize(
    "wrong", [{"trials": 0}, {"sampler": "hyperactive"}, {"seconds": 0}, {"patience": 0}, {"trails": 5}]
)
def test_settings_refuse_what_makes_no_search(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SearchSettings.model_validate(wrong)
