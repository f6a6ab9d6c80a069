"""The charts of a node say what its trials say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from optimizer.blocks import BLOCKS
from service.dashboard.node_charts import POINTS, heat_chart, progress_chart, thinned, u_chart
from service.dashboard.theme import DARK, LIGHT


def trial(number: int, score: float | None, weight: float = 0.5) -> Any:
    return SimpleNamespace(number=number, score=score, warnings=[], weights=dict.fromkeys(BLOCKS, weight))


def view(scores: list[float | None], **told: float) -> Any:
    trials = [trial(number, score, number / 10) for number, score in enumerate(scores)]
    done = [each for each in trials if each.score is not None]
    return SimpleNamespace(
        searched=trials,
        ranked=sorted(done, key=lambda each: -each.score),
        renders_by_then=[4 * (number + 1) for number in range(len(trials))],
        progress=SimpleNamespace(scores={name.replace("_", "/"): score for name, score in told.items()}),
        blocks=list(BLOCKS),
    )


def test_the_best_so_far_never_falls_and_failed_trials_have_no_point() -> None:
    shown = progress_chart(view([0.5, None, 0.4, 0.6]), LIGHT, by_renders=True)
    points, best, _warned = shown["series"]
    assert points["data"] == ((4, 0.5), (12, 0.4), (16, 0.6))
    assert best["data"] == ((4, 0.5), (16, 0.6))


def test_thousands_of_trials_are_thinned_and_the_best_is_not() -> None:
    scores: list[float | None] = [0.5] * 5_000
    scores[1234] = 0.9
    shown = progress_chart(view(scores), LIGHT, by_renders=False)
    points, best, _warned = shown["series"]
    assert points["name"] == "one of 16 trials"
    assert len(points["data"]) <= POINTS + 1
    assert points["data"][:2] == ((0, 0.5), (16, 0.5))
    assert points["data"][-1] == (4_999, 0.5)
    assert best["data"] == ((0, 0.5), (1234, 0.9), (4_999, 0.9))
    # What is drawn stays where it is when trials are added.
    more, _ = thinned(range(5_100))
    assert set(thinned(range(5_000))[0][:-1]) < set(more)


def test_baselines_are_drawn_where_they_are_and_a_far_held_out_score_is_not() -> None:
    near = progress_chart(view([0.5, 0.6], search_a=0.6254, heldout_winner=0.61), LIGHT, by_renders=False)
    lines = near["series"][1]["markLine"]
    assert [line["yAxis"] for line in lines["data"]] == [0.6254, 0.61]
    assert lines["precision"] > 6
    far = progress_chart(view([0.5, 0.6], search_a=0.55, heldout_winner=30.0), LIGHT, by_renders=False)
    assert [line["yAxis"] for line in far["series"][1]["markLine"]["data"]] == [0.55]


def test_the_u_goes_down_the_inputs_and_up_the_outputs_with_the_best_on_it() -> None:
    shown = u_chart([trial.weights for trial in view([0.5, 0.9, 0.7]).ranked], LIGHT)
    left, right, middle, rest = (axis["data"] for axis in shown["yAxis"])
    assert (left[0], left[-1], right[0], right[-1]) == ("IN00", "IN11", "OUT11", "OUT00")
    assert (middle, rest) == (["M00"], ["TIME_EMBED", "OUT"])
    best = [series for series in shown["series"] if series.get("name") == "best"]
    assert [value for value, _ in best[0]["data"]] == [0.1] * 12


def test_colours_follow_the_palette_and_differences_lie_around_zero() -> None:
    assert progress_chart(view([0.5]), DARK, by_renders=False)["xAxis"]["axisLabel"]["color"] == DARK.soft
    shown = heat_chart(["A"], ["1 a cat"], [(0, 0, -0.2)], LIGHT, around_zero=True)["visualMap"]
    assert (shown["min"], shown["max"]) == (-0.2, 0.2)
