"""The service on PostgreSQL: the same trials as on SQLite, through a killed worker and cut connections."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text

from service.catalog import Catalog
from service.db.records import NewJob
from service.db.states import JobState
from service.db.store import Store
from service.jobs import JobRequest
from service.planning import validate_job
from service.settings import Settings, load_settings
from service.worker import Worker
from tests.integration.conftest import Cli, wait_until
from tests.postgres import Postgres
from tests.tiny_models import job

pytestmark = pytest.mark.slow

Trials = list[tuple[str, int, dict[str, float], float | None, list[str]]]


@pytest.fixture
def settings(installation: Path, postgres: Postgres) -> Iterator[Settings]:
    """The settings of an installation whose database is PostgreSQL."""
    with postgres.empty_database() as url:
        installation.write_text(f'{installation.read_text()}database_url = "{url}"\n')
        yield load_settings(installation)


def new_job(settings: Settings) -> NewJob:
    request = JobRequest.model_validate(job(search={"sampler": "gp", "trials": 6, "seed": 3}))
    return validate_job(request, settings, Catalog(settings.models_dir))


def trials_of(store: Store, job_id: str) -> Trials:
    """All trials of a job's node, with their images."""
    return [
        (t.kind, t.number, t.weights, t.score, [render.sha256 for render in store.renders(t.id)])
        for t in store.trials(store.nodes(job_id)[0].id)
    ]


def on_sqlite(settings: Settings, folder: Path) -> Trials:
    """The trials of an undisturbed run on SQLite."""
    other = load_settings(None, **{**settings.model_dump(), "data_dir": folder, "database_url": ""})
    store = Store(other.database_url)
    job_id = store.create_job(new_job(other)).id
    Worker(other, store).run_job(job_id)
    found = trials_of(store, job_id)
    store.close()
    return found


def test_a_disturbed_search_on_postgresql_gives_the_trials_of_one_on_sqlite(
    cli: Cli, settings: Settings, tmp_path: Path
) -> None:
    store = Store(settings.database_url)
    job_id = store.create_job(new_job(settings)).id
    node_id = store.nodes(job_id)[0].id

    def renders(count: int) -> bool:
        return store.render_totals(node_id)[0] >= count

    worker = cli.start("worker")
    wait_until(partial(renders, 2), "the first trial")
    with store.engine.begin() as connection:
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))
    wait_until(partial(renders, 6), "two trials more, over new connections")
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    Worker(settings, store).run_job(job_id)
    assert store.job(job_id).state is JobState.DONE
    assert trials_of(store, job_id) == on_sqlite(settings, tmp_path / "undisturbed")
    store.close()
