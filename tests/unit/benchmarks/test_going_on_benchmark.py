"""The benchmark of going on: it looks at the very trials that were searched, and only at what could come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.going_on import EVERY, Kept, Searched, figures, moments, searches_of
from benchmarks.searching.arms import ours
from benchmarks.searching.objectives import interior
from benchmarks.searching.runs import BudgetSpent, Recorder
from optimizer.blocks import BLOCKS
from optimizer.going_on import FEWEST
from optimizer.search import BASELINES, ToldTrial


def test_a_run_is_gone_through_with_the_weights_that_it_tried(tmp_path: Path) -> None:
    recorder = Recorder(interior(3), "random", 16)
    with pytest.raises(BudgetSpent):
        ours("random")(recorder, 16, 3)
    run = recorder.finish()
    kept = Kept(tmp_path / "kept.json")
    (again,) = searches_of([run], None, kept)
    assert (again.row, again.sampler, again.first) == ("interior, random", "random", len(BASELINES))
    assert [interior(3).observe(trial.weights) for trial in again.trials] == run.observed
    (from_file,) = searches_of([run], None, Kept(tmp_path / "kept.json"))
    assert from_file == again


def search_of(scores: np.ndarray, patience: int | None = None) -> Searched:
    draw = np.random.default_rng(0)
    weights = [
        dict(zip(BLOCKS, map(float, row), strict=True)) for row in draw.random((len(scores), len(BLOCKS)))
    ]
    trials = [ToldTrial(n, w, float(s)) for n, (w, s) in enumerate(zip(weights, scores, strict=True))]
    return Searched("x", "random", trials, 0, patience)


def test_a_moment_is_not_counted_where_the_search_might_have_ended_before() -> None:
    scores = np.random.default_rng(1).normal(size=60)
    scores[20] = 9.0
    whole = moments(search_of(scores), 10)
    assert len(whole) == len(range(FEWEST, 51, EVERY))
    came = whole[:, 0] > 0
    assert came[range(FEWEST, 51, EVERY).index(16)], "the best came among the next ten"
    assert not came[2:].any()
    # The best is trial 20: after trial 25 nobody could be sure that ten more would come before 20 + 15.
    sure = moments(search_of(scores, patience=15), 10)
    assert len(sure) < len(whole)
    assert (sure[:, 0] > 0).sum() <= came.sum()


def test_a_ratio_is_expected_by_came() -> None:
    found = figures([np.array([[1.0, 2.0, 1.0, 0.5, 1.0], [3.0, 6.0, 3.0, 1.5, 3.0]])] * 3)
    assert found["told"].ratio.value == 2
    assert found["process"].ratio.value == 0.5
    assert found["told"].rank == pytest.approx(1)
