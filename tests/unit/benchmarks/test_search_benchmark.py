"""The search benchmark's pure parts: what is drawn, what is counted, what is resumed, who proposes what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.searching.arms import PEERS, arms, one_plus_one
from benchmarks.searching.gaussian_process import Process, draw, fit, matern
from benchmarks.searching.goals import verdict
from benchmarks.searching.objectives import DrawnObjective, interior
from benchmarks.searching.runner import Search, Setup, read_runs, run_all, search, searches
from benchmarks.searching.runs import BudgetSpent, Recorder, Run
from benchmarks.searching.table import (
    bootstrap,
    cost_to_reach,
    gain_over,
    gains_table,
    of_family,
    renders_to_reach,
    truth_at,
)
from benchmarks.searching.zoo import Cache, Rated
from optimizer.blocks import BLOCKS, uniform
from optimizer.formats.mbwrt_history import history_csv

PROCESS = Process(np.array([0.4, 0.8, 3.0]), mean=0.5, signal=0.02, noise=0.004)


def a_run(arm: str, objective: str, truths: list[float], slopes: list[int] | None = None) -> Run:
    marks = list(enumerate(truths, start=1))
    return Run(objective, arm, 100, truths, slopes or [], [0.1] * len(truths), 4.0, marks)


def test_a_draw_is_one_function_and_its_slopes_are_those_of_central_differences() -> None:
    random = np.random.default_rng(0)
    data = (random.random((12, 3)), 0.5 + 0.02 * random.standard_normal(12))
    drawn, again = draw(PROCESS, 3, data), draw(PROCESS, 3, data)
    x, h = random.random(3), 1e-5
    assert drawn.value(x) == again.value(x)
    differences = [(drawn.value(x + h * e) - drawn.value(x - h * e)) / (2 * h) for e in np.eye(3)]
    assert drawn.slopes(x) == pytest.approx(differences, abs=1e-6)


def test_posterior_draws_pass_near_their_data_and_prior_draws_have_the_kernels_covariance() -> None:
    points = np.random.default_rng(1).random((10, 3))
    scores = np.linspace(0.46, 0.54, 10)
    drawn = draw(PROCESS, 0, (points, scores))
    there = np.array([PROCESS.mean + PROCESS.signal * drawn.value(point) for point in points])
    assert there == pytest.approx(scores, abs=4 * PROCESS.noise)
    values = np.array([[draw(PROCESS, seed).value(point) for point in points[:4]] for seed in range(400)])
    assert np.cov(values.T) == pytest.approx(matern(points[:4], points[:4], PROCESS.scales), abs=0.25)


def test_a_fit_finds_which_dimensions_matter() -> None:
    random = np.random.default_rng(2)
    x = random.random((60, 4))
    found = fit(x, np.sin(6 * x[:, 1]))
    assert found.scales.argmin() == 1
    assert found.effective_dimension < 2


def test_an_objective_scores_the_same_weights_the_same_and_its_optimum_is_inside() -> None:
    objective = interior(5)
    weights = uniform(BLOCKS, 0.3)
    assert objective.observe(weights) == interior(5).observe(weights)
    assert objective.observe(weights) != objective.truth(weights)
    assert ((objective.peak > 0.1) & (objective.peak < 0.9)).all()
    moved = weights | {"IN04": 0.3 + 1e-5}
    slope = objective.observe_slopes(weights)[1]["IN04"]
    assert slope == pytest.approx((objective.truth(moved) - objective.truth(weights)) / 1e-5, abs=1e-3)


def test_a_budget_is_counted_in_renders_and_a_slope_has_its_price() -> None:
    recorder = Recorder(interior(0), "by hand", budget=6)
    recorder.observe(uniform(BLOCKS, 0.0))
    recorder.observe_slopes(uniform(BLOCKS, 0.5))
    recorder.observe(uniform(BLOCKS, 1.0))
    with pytest.raises(BudgetSpent):
        recorder.observe(uniform(BLOCKS, 0.2))
    run = recorder.finish()
    assert run.costs() == [1.0, 5.0, 6.0]
    assert [mark for mark, _ in run.truths] == [1, 2, 3, 4, 5, 6]
    assert truth_at(run, 4) == interior(0).truth(uniform(BLOCKS, 0.0))


def test_means_are_paired_and_renders_to_reach_are_those_of_the_mean_curve() -> None:
    runs = [
        a_run("fast", "rough/0", [1.0, 3.0, 3.0, 3.0]),
        a_run("fast", "rough/1", [0.0, 2.0, 4.0, 4.0]),
        a_run("slow", "rough/0", [0.0, 0.0, 1.0, 3.0]),
        a_run("slow", "rough/1", [0.0, 0.0, 1.0, 2.0]),
        a_run("slow", "rough/2", [9.0, 9.0, 9.0, 9.0]),
    ]
    rough = of_family("rough", runs)
    gain = gain_over(rough, "fast", "slow", 4)
    reached = renders_to_reach(rough, "fast", "slow", 4)
    assert gain is not None
    assert (gain.value, gain.count) == (1.0, 2)
    assert reached is not None
    assert reached.value == 2 / 4
    never = renders_to_reach(rough, "slow", "fast", 4)
    assert never is not None
    assert never.value == float("inf")
    assert gain_over(rough, "fast", "unknown", 4) is None


def test_only_arms_of_the_same_objectives_are_compared() -> None:
    heights = [float(step) for step in range(100)]
    runs = [a_run("gradient", "rough/0", [h + 2 for h in heights]), a_run("gp", "rough/0", heights)]
    table = gains_table("rough", [*runs, a_run("tpe", "rough/1", heights)])
    assert table is not None
    assert [list(column.cells)[:1] for column in table.columns[:3]] == [["gradient"], ["gp"], ["2 [2, 2]"]]
    assert table.row_count == 1
    assert gains_table("zoo", runs) is None


def test_costs_to_reach_count_slopes_at_their_price() -> None:
    zoo = of_family(
        "zoo",
        [a_run("gradient", "zoo/0", [0.1, 0.2, 0.4], slopes=[1, 2]), a_run("tpe", "zoo/0", [0.1, 0.2, 0.3])],
    )
    cost = cost_to_reach(zoo, "gradient", "tpe", 100)
    assert cost is not None
    assert cost.value == 9 / 100


def test_a_goal_is_missed_in_words_and_few_runs_decide_nothing() -> None:
    few, many = (bootstrap(count, lambda chosen: float(len(chosen))) for count in (3, 12))
    assert verdict(many, met=False) == "MISSED"
    assert verdict(few, met=True) == "met, of fewer than 10"
    assert verdict(None, met=False) == "not run"


def test_a_benchmark_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    setup = Setup(None, tmp_path, budget=8)
    wanted = searches(["interior"], range(2), ["(1+1)", "random"])
    first = list(run_all(setup, wanted[:2], jobs=1))
    setup.runs_file.write_text(setup.runs_file.read_text() + '\n{"objective": "interior/1", "ar')
    rest = list(run_all(setup, wanted, jobs=1))
    assert [(run.objective, run.arm) for run in [*first, *rest]] == [
        (task.objective, task.arm) for task in wanted
    ]
    assert len(read_runs(setup)) == len(wanted)
    again = search(setup, Search("interior", 1, "(1+1)"))
    assert again.observed == rest[0].observed


def test_what_the_zoo_rendered_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "zoo" / "cache.jsonl"
    rated = Rated([0.5, 0.6], 1.25, {"IN00": 0.1})
    Cache(file).keep("key", rated)
    assert Cache(file).rated == {"key": rated}


def test_one_plus_one_keeps_what_is_no_worse() -> None:
    recorder = Recorder(interior(1), "(1+1)", budget=30)
    with pytest.raises(BudgetSpent):
        one_plus_one(recorder, 30, seed=0)
    assert max(recorder.run.observed) > recorder.run.observed[0]


@pytest.mark.parametrize("arm", ["gp", "gradient", "local-gp"])
def test_arms_try_weights_within_bounds(arm: str) -> None:
    objective = _Watched(interior(2))
    with pytest.raises(BudgetSpent):
        arms()[arm](Recorder(objective, arm, budget=14), 14, 0)
    assert objective.tried
    assert all(0 <= alpha <= 1 for weights in objective.tried for alpha in weights.values())


@pytest.mark.slow
@pytest.mark.parametrize("peer", PEERS)
def test_peers_try_weights_within_bounds(peer: str) -> None:
    pytest.importorskip("hyperactive")
    pytest.importorskip("bayes_opt")
    objective = _Watched(interior(3))
    with pytest.raises(BudgetSpent):
        PEERS[peer](Recorder(objective, peer, budget=4), 12, 0)
    assert len(objective.tried) == 4
    assert all(0 <= alpha <= 1 for weights in objective.tried for alpha in weights.values())


def test_transfer_is_the_same_again_given_the_same_histories(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(3):
        rows = [(dict(zip(BLOCKS, random.random(27), strict=True)), random.random()) for _ in range(8)]
        (tmp_path / f"{number}.csv").write_text(history_csv(rows, 1.0, 1.0))
    setup = Setup(tmp_path, tmp_path, budget=6)
    run = search(setup, Search("rough", 0, "transfer"))
    assert len(run.observed) == 6
    assert run.observed == search(setup, Search("rough", 0, "transfer")).observed


class _Watched(DrawnObjective):
    """An objective that remembers what was tried."""

    def __init__(self, of: DrawnObjective) -> None:
        super().__init__(of.name, of.drawn, of.noise, of.bowl, of.peak)
        object.__setattr__(self, "tried", [])

    tried: list[dict[str, float]]

    def truth(self, weights: dict[str, float]) -> float:
        self.tried.append(weights)
        return super().truth(weights)
