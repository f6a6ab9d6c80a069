"""Thirty kill -9 of worker and API in one job: what it leaves is what an undisturbed run leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.db.states import JobState
from tests.storms.kill_storm import draw_kills, run_storm

pytestmark = pytest.mark.slow

KILLS = 30
TRIALS = 20  # the sampler `gp` draws the first ten at random


def test_thirty_kills_change_nothing(tmp_path: Path, four_models: Path) -> None:
    undisturbed = run_storm(tmp_path / "undisturbed", four_models, TRIALS, [])
    assert undisturbed.outcome.state is JobState.DONE
    assert undisturbed.redone == 0

    storm = run_storm(tmp_path / "storm", four_models, TRIALS, draw_kills(KILLS, seed=1))
    assert storm.kills.total() == KILLS
    assert {"loading", "rendering", "storing", "exporting", "api"} <= set(storm.kills)
    assert storm.outcome == undisturbed.outcome, "every trial, image, score and file, to the last bit"
    assert len(storm.outcome.files) == 4
    assert storm.twice == []
    assert storm.left_over == []
    assert 0 <= storm.redone <= KILLS - storm.kills["api"]
    assert storm.lost == [], "what the API answered once it answers again"
    assert storm.events_missed == []
    assert storm.problems == {}
    assert storm.outages > 0
