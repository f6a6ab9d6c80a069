"""Searches by slopes that really run: stored with their trials, resumed, given up where there are none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optimizer.formats.trials_table import trials_csv
from optimizer.slopes import NoSlopes
from optimizer.trial import PairEvaluator
from service.catalog import Catalog
from service.db.records import TrialRecord
from service.db.states import JobState, TrialKind
from service.db.store import Store
from service.jobs import JobRequest
from service.planning import validate_job
from service.progress import job_progress
from service.settings import Settings, load_settings
from service.trial_table import trial_table
from service.worker import Worker
from tests.tiny_models import job, write_models, write_reward

# Two sizes, so that a trial has two batches.
PROBES = [
    {"prompt": "a cat", "seed": 1, "sampler": "Euler", "steps": 2, "width": width, "height": 32}
    for width in (32, 64)
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write_models(tmp_path / "models")
    write_reward(tmp_path / "scorers" / "reward")
    folders = {f"{name}_dir": tmp_path / name for name in ("models", "scorers", "data")}
    return load_settings(device="cpu", **folders)


def queue(settings: Settings, store: Store, output: str, **changes: Any) -> str:
    search = {"sampler": "auto", "trials": 4}
    given = {"probes": PROBES, "heldout": None, "search": search, "output": output, **changes}
    request = JobRequest.model_validate(job(**given))
    return store.create_job(validate_job(request, settings, Catalog(settings.models_dir))).id


def trials(store: Store, job_id: str) -> list[TrialRecord]:
    return store.trials(store.nodes(job_id)[0].id, kinds=[TrialKind.SEARCH])


def test_a_killed_search_has_the_slopes_of_an_undisturbed_one(settings: Settings, store: Store) -> None:
    undisturbed, disturbed = (queue(settings, store, name) for name in ("undisturbed", "disturbed"))
    Worker(settings, store).run_job(undisturbed)
    node = store.nodes(disturbed)[0].id

    class StopsWithinATrialWithSlopes(Worker):
        def _stopped(self) -> bool:
            return store.render_totals(node)[0] >= 7 or super()._stopped()

    StopsWithinATrialWithSlopes(settings, store).run_job(disturbed)
    left = trials(store, disturbed)[-1]
    assert (left.score, left.slopes) == (None, None)
    (render,) = store.renders(left.id)
    assert render.slopes is not None

    Worker(settings, store).run_job(disturbed)
    assert store.job(disturbed).state is JobState.DONE
    one, other = (
        [(t.weights, t.score, t.slopes) for t in trials(store, each)] for each in (undisturbed, disturbed)
    )
    assert one == other
    assert [slopes is None for _, _, slopes in one] == [True, True, False, False]

    progress = job_progress(store, disturbed).nodes[0]
    assert any("sampler auto: gradient, as slopes pass through clip" in note for note in progress.notes)
    told = [trial.timings or {} for trial in trials(store, disturbed)]
    assert told[0]["slope"] == 0 < told[3]["slope"]
    table = trial_table(store, disturbed, None)
    assert table.trials[3].slopes == one[3][2]
    assert "slope IN00" in trials_csv(table).splitlines()[0]


def test_where_slopes_turn_out_not_to_be_had_the_search_goes_on_without(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> Iterator[Any]:
        raise NoSlopes("slopes do not fit the memory: 1 image does not")
        yield

    monkeypatch.setattr(PairEvaluator, "slopes", none)
    job_id = queue(settings, store, "without")
    Worker(settings, store).run_job(job_id)
    assert store.job(job_id).state is JobState.DONE
    assert [trial.slopes for trial in trials(store, job_id)] == [None] * 4
    notes = job_progress(store, job_id).nodes[0].notes
    assert any("gp from here on, without slopes: slopes do not fit the memory" in note for note in notes)


def test_a_tally_whose_slopes_are_not_known_is_searched_without(settings: Settings, store: Store) -> None:
    job_id = queue(settings, store, "median", tally="median")
    Worker(settings, store).run_job(job_id)
    assert [trial.slopes for trial in trials(store, job_id)] == [None] * 4
    assert any("this one is median" in note for note in job_progress(store, job_id).nodes[0].notes)
