"""Drafts of a real search: they decide as they should, and a kill changes nothing."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from optimizer.drafts import FEWEST
from service.db.records import TrialRecord
from service.db.states import JobState, TrialKind, TrialState
from service.progress import job_progress
from tests.storms.conftest import MakeSite
from tests.storms.outcome import counted_twice
from tests.storms.site import Site
from tests.storms.test_racing import dies_before_a_trial_is_stopped
from tests.tiny_models import job

pytestmark = pytest.mark.slow

PROBES, TRIALS = 4, 24
JOB: dict[str, Any] = {
    "probes": {**job()["probes"], "prompts": ["a cat", "a red apple"], "seeds": [1, 2]},
    "search": {"sampler": "random", "trials": TRIALS, "seed": 2, "drafts": {"steps": 0.5, "agreement": 0}},
}


def trials_of(site: Site, job_id: str, kind: TrialKind) -> dict[int, TrialRecord]:
    return {trial.number: trial for trial in site.store.trials(site.node(job_id).id, kinds=[kind])}


def test_drafts_decide_once_they_agree_and_a_kill_changes_nothing(make_site: MakeSite) -> None:
    site = make_site("undisturbed")
    undisturbed = site.run(**JOB)
    job_id = site.store.jobs()[0].id
    drafts, trials = (trials_of(site, job_id, kind) for kind in (TrialKind.DRAFT, TrialKind.SEARCH))
    assert list(drafts) == list(range(3, TRIALS)), "baselines have none"
    stopped = {n: trial for n, trial in trials.items() if trial.state is TrialState.STOPPED}
    assert stopped, "else this test says nothing"
    assert min(stopped) >= 3 + FEWEST, "none before so many were rendered both ways"
    best = site.store.best_trial(site.node(job_id).id)
    assert best is not None
    assert best.score is not None
    for number, trial in stopped.items():
        assert (trial.score, site.store.renders(trial.id)) == (None, [])
        assert trial.estimate is not None
        assert trial.estimate < best.score
        assert f"stopped after its draft, {drafts[number].score:.5g}" in (trial.reason or "")
        assert (trial.seconds or 0) >= (drafts[number].seconds or 0), "its draft's time is its own"
    assert all(len(site.store.renders(trial.id)) == PROBES for n, trial in trials.items() if n not in stopped)
    assert job_progress(site.store, job_id).nodes[0].trials_stopped == len(stopped)

    crashed = make_site("crashed")
    again = crashed.queue(**JOB)
    assert crashed.fleet.start_worker(dies_before_a_trial_is_stopped).wait() == -signal.SIGKILL
    worker = crashed.fleet.start_worker()
    crashed.wait_renders(again, crashed.renders(again) + PROBES // 2)
    worker.kill()
    crashed.fleet.start_worker()
    assert crashed.wait_rest(again) is JobState.DONE
    assert counted_twice(crashed.store, again) == []
    assert crashed.outcome(again) == undisturbed


def test_drafts_that_say_nothing_are_given_up(make_site: MakeSite) -> None:
    site = make_site("given up")
    # One step of a random model: ranks that agree perfectly are asked for.
    drafts = {"steps": 0.01, "agreement": 1.0}
    site.run(**{**JOB, "search": {**JOB["search"], "trials": 3 + FEWEST + 3, "drafts": drafts}})
    job_id = site.store.jobs()[0].id
    assert list(trials_of(site, job_id, TrialKind.DRAFT)) == list(range(3, 3 + FEWEST))
    assert {t.state for t in trials_of(site, job_id, TrialKind.SEARCH).values()} == {TrialState.DONE}
    said = [event.data.get("text", "") for event in site.store.events(job_id, after=0, limit=10_000)]
    assert sum("no more drafts are made" in str(text) for text in said) == 1
