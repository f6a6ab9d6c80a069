"""A search that races and is killed stops the same trials after the same probes as an undisturbed one."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from optimizer.racing import FEWEST
from service.db.states import JobState, TrialKind, TrialState
from service.db.trials import TrialStore
from service.progress import job_progress
from tests.storms.conftest import MakeSite
from tests.storms.fleet import run_worker
from tests.storms.outcome import counted_twice
from tests.storms.test_crash_points import die
from tests.tiny_models import job

pytestmark = pytest.mark.slow

PROBES = 10
JOB: dict[str, Any] = {
    "probes": {**job()["probes"], "prompts": ["a cat", "a red apple"], "seeds": list(range(PROBES // 2))},
    "search": {"sampler": "random", "trials": 9, "seed": 2, "racing": True},
}


def dies_before_a_trial_is_stopped(installation: Path) -> None:
    TrialStore.stop_trial = die  # type: ignore[method-assign]
    run_worker(installation)


def test_a_trial_that_falls_behind_is_stopped_and_a_kill_changes_nothing(make_site: MakeSite) -> None:
    site = make_site("undisturbed")
    undisturbed = site.run(**JOB)
    job_id = site.store.jobs()[0].id
    trials = site.store.trials(site.node(job_id).id, kinds=[TrialKind.SEARCH])
    stopped = [trial for trial in trials if trial.state is TrialState.STOPPED]
    assert stopped, "else this test says nothing"
    best = site.store.best_trial(site.node(job_id).id)
    assert best is not None
    assert best.score is not None
    for trial in stopped:
        seen = [render.probe for render in site.store.renders(trial.id)]
        assert len(seen) == trial.probes_seen
        assert FEWEST <= len(seen) < PROBES
        assert trial.score is None
        assert trial.estimate is not None
        assert trial.estimate < best.score
        assert trial.reason is not None
        assert f"stopped after {len(seen)} of {PROBES} probes" in trial.reason
    whole = [trial for trial in trials if trial.state is TrialState.DONE]
    assert [trial.number for trial in whole[:3]] == [0, 1, 2], "baselines are never stopped"
    assert {len(site.store.renders(trial.id)) for trial in whole} == {PROBES}
    shown = job_progress(site.store, job_id).nodes[0]
    assert (shown.trials_stopped, shown.trials_done) == (len(stopped), len(whole))
    assert shown.probe_noise == stopped[-1].probe_noise

    crashed = make_site("crashed")
    again = crashed.queue(**JOB)
    assert crashed.fleet.start_worker(dies_before_a_trial_is_stopped).wait() == -signal.SIGKILL
    killed_at = crashed.renders(again)
    worker = crashed.fleet.start_worker()
    # In the middle of a later trial, between two looks.
    crashed.wait_renders(again, killed_at + FEWEST + 2)
    worker.kill()
    crashed.fleet.start_worker()
    assert crashed.wait_rest(again) is JobState.DONE
    assert counted_twice(crashed.store, again) == []
    assert crashed.outcome(again) == undisturbed
