"""A search begins at points that are told to it, and knows the trials of an earlier one."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest
from pydantic import ValidationError

from optimizer import search
from optimizer.blocks import BLOCKS as ALL_BLOCKS
from optimizer.blocks import SDXL_BLOCKS, BlockWeights
from optimizer.search import SamplerName, SearchSettings, ToldTrial, best_trial, propose, stop_reason
from optimizer.warm_start import check_fits, rescaled
from scoring.errors import InputError

BLOCKS = ("IN00", "M00", "OUT05", "OUT11")
PEAK = {"IN00": 0.9, "M00": 0.1, "OUT05": 0.85, "OUT11": 0.2}
HALVES = dict.fromkeys(ALL_BLOCKS, 0.5)


def height(weights: BlockWeights) -> float:
    return 1 - sum((weights[block] - PEAK[block]) ** 2 for block in PEAK)


def imported(count: int, *, scale: float = 1.0, offset: float = 0.0) -> list[dict[str, object]]:
    """Trials of another search on the same hill, whose scores may have another scale."""
    draw = random.Random(4)
    points = [{block: draw.random() for block in ALL_BLOCKS} for _ in range(count)]
    return [{"weights": point, "score": offset + scale * height(point)} for point in points]


def run(settings: SearchSettings, until: int, told: list[ToldTrial] | None = None) -> list[ToldTrial]:
    trials = list(told or [])
    while len(trials) < until:
        weights = propose(settings, BLOCKS, len(trials), trials)
        trials.append(ToldTrial(len(trials), weights, height(weights)))
    return trials


def test_start_points_come_after_the_baselines_in_their_order() -> None:
    own = {**HALVES, "M00": 0.125}
    history = imported(12)
    settings = SearchSettings.model_validate({"start": ["GRAD_V", own, "history"], "imported": history})
    found = [trial.weights for trial in run(settings, 7)]
    assert found[:3] == [dict.fromkeys(BLOCKS, alpha) for alpha in (0.0, 1.0, 0.5)]
    assert found[3] == pytest.approx({"IN00": 1.0, "M00": 0.0, "OUT05": 0.5, "OUT11": 1.0})
    assert found[4] == {"IN00": 0.5, "M00": 0.125, "OUT05": 0.5, "OUT11": 0.5}
    best = max(history, key=lambda trial: trial["score"])["weights"]  # type: ignore[arg-type,return-value]
    assert found[5] == {block: best[block] for block in BLOCKS}  # type: ignore[index]
    assert found[6] not in found[:6]


@pytest.mark.parametrize("sampler", ["gp", "tpe", "cmaes", "random"])
def test_a_resumed_search_goes_on_as_an_undisturbed_one(sampler: SamplerName) -> None:
    settings = SearchSettings.model_validate(
        {"sampler": sampler, "start": ["WRAP08"], "imported": imported(20), "seed": 5}
    )
    undisturbed = run(settings, 13)
    read_again = SearchSettings.model_validate_json(settings.model_dump_json())
    killed: list[ToldTrial] = []
    for stop in (2, 4, 5, 9, 13):
        killed = run(read_again, stop, killed)
    assert killed == undisturbed


@pytest.mark.parametrize("sampler", ["gp", "tpe", "cmaes"])
def test_imported_trials_make_the_search_better_whatever_their_scale(sampler: SamplerName) -> None:
    def reached(settings: dict[str, object]) -> float:
        runs = [run(SearchSettings.model_validate({**settings, "seed": seed}), 9) for seed in range(3)]
        return statistics.fmean(max(height(trial.weights) for trial in told[3:]) for told in runs)

    cold = reached({"sampler": sampler})
    warm = reached({"sampler": sampler, "imported": imported(60, scale=40.0, offset=-1000.0)})
    assert warm > cold + 0.03


def test_imported_trials_count_for_nothing_and_never_win() -> None:
    settings = SearchSettings.model_validate(
        {"trials": 5, "patience": 2, "start": ["GRAD_A", "GRAD_V"], "imported": imported(30, offset=99.0)}
    )
    told = run(settings, 4)
    assert stop_reason(settings, told, 0) is None
    best = best_trial(told)
    assert best is not None
    assert best.number >= 0
    assert best.score == max(height(trial.weights) for trial in told)
    flat = [ToldTrial(number, {}, 1.0 if number == 0 else 0.0) for number in range(7)]
    # Numbers 3 and 4 are start points, which no patience counts, as it counts no baseline.
    long = settings.model_copy(update={"trials": 99})
    assert stop_reason(long, flat[:6], 0) is None
    assert stop_reason(long, flat, 0) == "no improvement in 2 trials"


def test_scores_are_moved_to_the_mean_and_spread_of_this_search() -> None:
    theirs, ours = [10.0, 20.0, 60.0], [0.25, 0.75]
    found = rescaled(theirs, ours)
    mean, deviation = 30.0, ((20.0**2 + 10.0**2 + 30.0**2) / 3) ** 0.5
    assert found == pytest.approx([0.5 + (score - mean) / deviation * 0.25 for score in theirs])
    assert found is not None
    assert (statistics.fmean(found), statistics.pstdev(found)) == pytest.approx((0.5, 0.25))
    assert rescaled([1.0, 1.0], ours) == [0.5, 0.5]
    # Nothing to measure by yet.
    assert rescaled(theirs, []) is None
    assert rescaled(theirs, [0.5]) is None
    assert rescaled(theirs, [0.5, 0.5]) is None


def test_scores_of_the_same_scorers_are_told_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    given = imported(6)
    told: list[list[float]] = []

    def informative(history: list[ToldTrial], most: int) -> list[ToldTrial]:
        told.append([trial.score or 0.0 for trial in history])
        return list(history)

    monkeypatch.setattr(search, "informative", informative)
    own = run(SearchSettings(), 3)
    scores = [float(str(trial["score"])) for trial in given]
    for kind, expected in (("same", scores), ("rescaled", rescaled(scores, [t.score or 0.0 for t in own]))):
        settings = SearchSettings.model_validate({"imported": given, "imported_scores": kind})
        propose(settings, BLOCKS, 3, own)
        assert told.pop() == [*(expected or []), *(trial.score for trial in own)]


def test_weights_that_were_rendered_here_are_told_once_with_the_score_they_have_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = {**HALVES, "IN00": 0.75}
    # These two differ in a block alone that this search does not weigh.
    twins = [{"weights": {**point, "IN05": alpha}, "score": 5.0 + alpha} for alpha in (0.0, 1.0)]
    other = {"weights": {**HALVES, "IN00": 0.25}, "score": 4.0}
    # The uniform merge is trial 2 of every search.
    given = [*twins, other, {"weights": HALVES, "score": 9.0}]
    settings = SearchSettings.model_validate({"imported": given, "imported_scores": "same"})
    told: list[list[tuple[float, float]]] = []

    def informative(history: list[ToldTrial], most: int) -> list[ToldTrial]:
        told.append([(trial.weights["IN00"], trial.score or 0.0) for trial in history])
        return list(history)

    monkeypatch.setattr(search, "informative", informative)
    own = run(SearchSettings(), 3)
    propose(settings, BLOCKS, 3, own)
    assert told.pop() == [(0.75, 5.0), (0.25, 4.0), *((t.weights["IN00"], t.score) for t in own)]


def test_an_evolution_begins_where_the_imported_trials_were_good() -> None:
    near = [
        {"weights": {**HALVES, **{b: min(1, PEAK[b] + 0.02 * i) for b in PEAK}}, "score": -i}
        for i in range(5)
    ]
    far = [{"weights": dict.fromkeys(ALL_BLOCKS, i / 100), "score": -100 - i} for i in range(45)]
    settings = SearchSettings.model_validate({"sampler": "cmaes", "imported": near + far})
    told = run(settings, 3)
    drawn = [propose(settings, BLOCKS, number, told) for number in range(3, 40)]
    mean = np.array([[weights[block] for block in BLOCKS] for weights in drawn]).mean(axis=0)
    # The best tenth of 50 are the five near ones, whose mean lies 0.04 above the peak.
    assert mean == pytest.approx([PEAK[block] + 0.04 for block in BLOCKS], abs=0.12)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"start": ["GRAD"]}, "there is no preset 'GRAD'"),
        ({"start": ["history"]}, "'history' is the best imported trial, and none is imported"),
        ({"start": [{"IN00": 0.5}]}, "no weight for block IN01, "),
        ({"start": [{**HALVES, "IN12": 0.5}]}, "unknown block 'IN12'"),
        ({"start": [{**HALVES, "M00": 1.5}]}, "the weight of block M00 is 1.5"),
        ({"imported": [{"weights": {"M00": 0.5}, "score": 1.0}]}, "no weight for block IN00, "),
        ({"imported": [{"weights": HALVES, "score": float("nan")}]}, "finite number"),
        ({"imported": [{"weights": HALVES, "score": "high"}]}, "valid number"),
        (
            {"imported": [{"weights": HALVES, "score": 1.0}, {"weights": HALVES, "score": 2.0}]},
            "trials 0 and 1 have the same weights; import each history once",
        ),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SearchSettings.model_validate(wrong)


def test_points_of_another_architecture_are_refused() -> None:
    settings = SearchSettings.model_validate({"start": [dict.fromkeys(SDXL_BLOCKS, 0.5)]})
    check_fits(settings.start, [], SDXL_BLOCKS)
    check_fits(["GRAD_V"], [], SDXL_BLOCKS)
    with pytest.raises(InputError, match="no weight for IN09, IN10, IN11, OUT09, OUT10, OUT11: they are of"):
        check_fits(settings.start, [], ALL_BLOCKS)
    history = SearchSettings.model_validate({"imported": imported(1)}).imported
    check_fits([], history, ALL_BLOCKS)
    with pytest.raises(InputError, match="no weight for LABEL_EMB"):
        check_fits([], history, SDXL_BLOCKS)
    assert propose(settings, ["IN00", "LABEL_EMB"], 3, []) == {"IN00": 0.5, "LABEL_EMB": 0.5}
    with pytest.raises(InputError, match="no weight for IN09: they are of another architecture"):
        propose(settings, ["IN00", "IN09"], 3, [])
