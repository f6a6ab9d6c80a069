"""kill -9, SIGTERM, a full disk: nothing finished is lost, and the trials are those of an undisturbed run."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from service.catalog import Catalog
from service.db.records import TrialRecord
from service.db.states import JobState, NodeState
from service.db.store import Store
from service.jobs import JobRequest
from service.planning import validate_job
from service.settings import Settings, load_settings
from service.worker import Worker
from tests.integration.conftest import Cli, free_port, wait_until
from tests.tiny_models import job

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(installation: Path) -> Settings:
    return load_settings(installation)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = Store(settings.database_url)
    yield store
    store.close()


def queue(settings: Settings, store: Store, **changes: Any) -> str:
    request = JobRequest.model_validate(job(**changes))
    return store.create_job(validate_job(request, settings, Catalog(settings.models_dir))).id


def rows(trials: list[TrialRecord]) -> list[tuple[str, int, dict[str, float], float | None]]:
    return [(trial.kind, trial.number, trial.weights, trial.score) for trial in trials]


def all_trials(store: Store, job_id: str) -> list[TrialRecord]:
    return store.trials(store.nodes(job_id)[0].id)


def test_a_search_killed_again_and_again_gives_the_trials_of_an_undisturbed_one(
    cli: Cli, settings: Settings, store: Store
) -> None:
    search = {"sampler": "gp", "trials": 6, "seed": 3}
    undisturbed = queue(settings, store, search=search, output="undisturbed")
    Worker(settings, store).run_job(undisturbed)

    disturbed = queue(settings, store, search=search, output="disturbed")
    node_id = store.nodes(disturbed)[0].id
    for renders in (1, 5, 9):
        worker = cli.start("worker")
        wait_until(partial(has_renders, store, node_id, renders), f"{renders} renders")
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    stored = store.render_totals(node_id)[0]
    assert store.job(disturbed).state is JobState.RUNNING, "a killed worker says nothing"
    Worker(settings, store).run_job(disturbed)

    assert store.job(disturbed).state is JobState.DONE
    assert rows(all_trials(store, disturbed)) == rows(all_trials(store, undisturbed))
    assert store.render_totals(node_id)[0] == 6 * 2 + 4 >= stored
    assert not list(settings.data_dir.rglob("*.tmp"))
    outputs = [settings.outputs_dir / f"{name}.safetensors" for name in ("undisturbed", "disturbed")]
    assert [path.exists() for path in outputs] == [True, True]


def test_a_trial_goes_on_at_the_probe_it_was_killed_at(settings: Settings, store: Store) -> None:
    """Probes of different sizes are rendered one after the other; the first is not rendered again."""
    sizes = [
        {"prompt": "a cat", "seed": 1, "sampler": "Euler", "steps": 2, "width": w, "height": 32}
        for w in (32, 64)
    ]
    job_id = queue(settings, store, probes=sizes, heldout=None, search={"trials": 1})
    node_id = store.nodes(job_id)[0].id

    class StopsAfterOneRender(Worker):
        def _stopped(self) -> bool:
            if store.trials(node_id):
                wait_until(lambda: store.render_totals(node_id)[0], "the first render")
                return True
            return super()._stopped()

    StopsAfterOneRender(settings, store).run_one()
    (trial,) = store.trials(node_id)
    first = store.renders(trial.id)
    assert len(first) == 1
    Worker(settings, store).run_job(job_id)
    assert store.job(job_id).state is JobState.DONE
    assert store.renders(trial.id)[0] == first[0]
    assert len(store.renders(trial.id)) == 2


def test_a_worker_told_to_stop_hands_its_node_back(cli: Cli, settings: Settings, store: Store) -> None:
    job_id = queue(settings, store, search={"sampler": "random", "trials": 500})
    worker = cli.start("worker")
    node_id = store.nodes(job_id)[0].id
    wait_until(lambda: store.render_totals(node_id)[0] >= 2, "the first trial")
    worker.terminate()
    assert worker.wait(timeout=20) == 0
    node = store.node(node_id)
    assert (node.state, node.lease_owner) == (NodeState.READY, None)
    assert store.cancel_job(job_id).state is JobState.CANCELLED


def has_renders(store: Store, node_id: int, count: int) -> bool:
    return store.render_totals(node_id)[0] >= count


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: what a full disk does, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_result_that_could_not_be_written_is_finished_without_searching_again(
    settings: Settings, store: Store
) -> None:
    job_id = queue(settings, store)
    settings.outputs_dir.mkdir(parents=True, exist_ok=True)
    precious = settings.outputs_dir / "older.safetensors"
    precious.write_bytes(b"older")
    model = settings.models_dir / "left.safetensors"
    with files_limited_to(model.stat().st_size // 4):
        Worker(settings, store).run_job(job_id)
    (node,) = store.nodes(job_id)
    assert node.state is NodeState.EXPORT_FAILED
    assert "merged.safetensors could not be written" in (node.reason or "")
    assert [path.name for path in settings.outputs_dir.iterdir()] == ["older.safetensors"]
    searched = all_trials(store, job_id)

    store.retry_job(job_id)
    Worker(settings, store).run_job(job_id)
    assert store.job(job_id).state is JobState.DONE
    assert all_trials(store, job_id) == searched, "nothing was searched or rendered again"
    assert precious.read_bytes() == b"older"


def test_serve_restarts_a_worker_that_died(cli: Cli, settings: Settings, store: Store) -> None:
    cli.start("serve", "--port", str(free_port()))
    search = {"sampler": "random", "trials": 5, "seed": 5}
    job_id = queue(settings, store, search=search)
    node_id = store.nodes(job_id)[0].id
    wait_until(lambda: store.render_totals(node_id)[0] >= 2, "the first trial")
    owner = store.node(node_id).lease_owner
    assert owner is not None
    os.kill(int(owner.split(":")[1]), signal.SIGKILL)
    wait_until(lambda: store.job(job_id).state is JobState.DONE, "the job to end with another worker")
    takers = {event.data["owner"] for event in store.events(job_id) if event.kind == "lease.taken"}
    assert len(takers) == 2
