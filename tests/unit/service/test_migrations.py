"""The schema is what the migrations make, and what an older version stored is read, on every database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from service.db.engine import open_engine
from service.db.migrate import VERSION_TABLE, alembic_config, upgrade
from service.db.models import Base
from service.db.states import JobState, NodeState, TrialKind, TrialState
from service.db.store import Store
from service.jobs import parse_request
from service.progress import job_progress

ROWS_0001 = Path(__file__).with_name("rows_0001.json")
"""What version 0.1.0 stored: a job that is done, and one whose worker was killed in its fourth trial."""

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
def engine(empty_url: str) -> Iterator[Engine]:
    engine = open_engine(empty_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def rows() -> Rows:
    found: Rows = json.loads(ROWS_0001.read_text())
    return found


@pytest.fixture
def upgraded(engine: Engine, rows: Rows) -> Iterator[Store]:
    """The store of a database that version 0.1.0 wrote."""
    with engine.begin() as connection:
        command.upgrade(alembic_config(connection), "0001")
        for table, written in rows.items():
            for row in written:
                insert(connection, table, row)
    store = Store(engine.url.render_as_string(hide_password=False))
    yield store
    store.close()


def insert(connection: Any, table: str, row: dict[str, Any]) -> None:
    """A row in plain SQL: the tables of today's models are not those of its time."""
    values = {k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()}
    names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), values)


def test_the_migrations_make_the_tables_of_the_models(engine: Engine) -> None:
    upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []
    assert VERSION_TABLE in inspect(engine).get_table_names()


def test_jobs_and_nodes_of_version_0_1_0_are_read(upgraded: Store, rows: Rows) -> None:
    for row in rows["jobs"]:
        job = upgraded.job(row["id"])
        assert_same(job, row, "name", "state")
        assert job.created_at.timestamp() == pytest.approx(row["created_at"])
        assert parse_request(job.request, "the stored request").output == row["request"]["output"]
    for node_id, row in enumerate(rows["nodes"], start=1):
        names = ("job_id", "position", "state", "a_model", "b_sha256", "output", "stop_reason", "lease")
        assert_same(upgraded.node(node_id), row, *names)


def test_several_scorers_of_an_older_job_stay_raw(engine: Engine, rows: Rows) -> None:
    one, two = rows["jobs"]
    several = [{"scorer": "clip"}, {"scorer": "laion-v2"}]
    jobs = [one, {**two, "request": {**two["request"], "scorers": several}}]
    with engine.begin() as connection:
        command.upgrade(alembic_config(connection), "0001")
        for table, written in (("jobs", jobs), ("nodes", rows["nodes"])):
            for row in written:
                insert(connection, table, row)
    store = Store(engine.url.render_as_string(hide_password=False))
    asked = [parse_request(store.job(row["id"]).request, "the stored request") for row in rows["jobs"]]
    assert [(request.normalise, request.watch) for request in asked] == [(True, None), (False, None)]
    # As a file of today is read, so that `autombw run` finds the job that it began.
    assert store.job(one["id"]).request["normalise"] is True
    store.close()


def test_trials_and_renders_of_version_0_1_0_are_read(upgraded: Store, rows: Rows) -> None:
    for trial_id, row in enumerate(rows["trials"], start=1):
        names = ("node_id", "kind", "state", "weights", "score", "reason", "seconds", "timings")
        assert_same(upgraded.trial(trial_id), row, *names)
        written = [render for render in rows["renders"] if render["trial_id"] == trial_id]
        for found, render in zip(upgraded.renders(trial_id), written, strict=True):
            assert_same(found, render, "probe", "sha256", "seconds")
    scores = [render.scores["clip"] for n in range(len(rows["trials"])) for render in upgraded.renders(n + 1)]
    assert scores == [row["value"] for row in rows["scores"]]


def test_checkpoints_and_events_of_version_0_1_0_are_read(upgraded: Store, rows: Rows) -> None:
    (row,) = rows["checkpoints"]
    assert_same(upgraded.checkpoint(1), row, "name", "path", "sha256", "size", "inspection", "recipe")
    for job in rows["jobs"]:
        written = [event for event in rows["events"] if event["job_id"] == job["id"]]
        for found, event in zip(upgraded.events(job["id"]), written, strict=True):
            assert_same(found, event, "kind", "node_id", "data")


def assert_same(record: object, row: dict[str, Any], *names: str) -> None:
    """What the store hands out is what was written."""
    assert {name: getattr(record, name) for name in names} == {name: row[name] for name in names}


def test_the_page_shows_what_version_0_1_0_stored(upgraded: Store, rows: Rows) -> None:
    done, killed = (job_progress(upgraded, row["id"]) for row in rows["jobs"])
    assert (done.state, done.nodes[0].trials_done, done.nodes[0].renders) == (JobState.DONE, 4, 12)
    assert done.nodes[0].best is not None
    assert done.nodes[0].best.number == 1
    assert (killed.state, killed.nodes[0].trials_done, killed.nodes[0].renders) == (JobState.RUNNING, 3, 7)


def test_a_search_that_version_0_1_0_left_goes_on(upgraded: Store) -> None:
    """The killed worker's node is leased again and its open trial is found with the render it has."""
    lease = upgraded.lease_node("host:2:w", 30)
    assert lease is not None
    assert (lease.node_id, lease.number) == (2, 2)
    (left,) = upgraded.trials(lease.node_id, states=[TrialState.OPEN])
    assert upgraded.open_trial(lease, TrialKind.SEARCH, 3, {}) == left
    assert len(upgraded.renders(left.id)) == 1
    upgraded.finish_trial(lease, left.id, 0.5, 1.0, {})
    new = upgraded.open_trial(lease, TrialKind.SEARCH, 4, {"IN00": 0.5})
    assert new.id > left.id, "numbers are given out after those that were there"
    assert upgraded.node(lease.node_id).state is NodeState.RUNNING
