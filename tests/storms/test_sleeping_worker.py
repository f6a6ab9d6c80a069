"""A worker that is stopped past its lease and goes on: its late writes are refused, nothing counts twice."""

from __future__ import annotations

import signal
import sqlite3
import time

import pytest

from service.db.engine import sqlite_file
from service.db.states import JobState
from tests.storms.conftest import MakeSite, Undisturbed
from tests.storms.fleet import Member
from tests.storms.outcome import all_events, counted_twice, left_over
from tests.storms.site import Site

pytestmark = pytest.mark.slow

SEARCH = {"sampler": "gp", "trials": 14, "seed": 3}
DROPPED = "dropped node"


def test_a_worker_that_sleeps_past_its_lease_changes_nothing(
    make_site: MakeSite, undisturbed: Undisturbed
) -> None:
    site = make_site("disturbed", lease_seconds=2)
    job_id = site.queue(search=SEARCH)
    workers = [site.fleet.start_worker(), site.fleet.start_worker()]

    for renders in (3, 9, 15):
        site.wait_renders(job_id, renders)
        sleeper, successor = put_to_sleep(site, job_id), site.renders(job_id) + 2
        site.wait_renders(job_id, successor)
        wake(site, sleeper)
    site.wait(lambda: list(site.settings.outputs_dir.glob(".*.partial")), "the file to be begun")
    writer = put_to_sleep(site, job_id)
    assert site.wait_rest(job_id) is JobState.DONE
    written = (site.settings.outputs_dir / "merged.safetensors").stat()
    wake(site, writer)

    assert all(worker.is_alive for worker in workers)
    assert (site.settings.outputs_dir / "merged.safetensors").stat() == written
    assert site.outcome(job_id) == undisturbed(SEARCH)
    assert counted_twice(site.store, job_id) == []
    assert left_over(site.settings.data_dir) == []
    expired = [event for event in all_events(site.store, job_id) if event.kind == "lease.expired"]
    assert len(expired) >= 4, "each time the sleeper lost its lease to the other"


def put_to_sleep(site: Site, job_id: str) -> Member:
    """Stop the worker that holds the lease, at a moment at which it does not keep all others from writing."""
    while True:
        holder = site.wait(lambda: site.holder(job_id), "a worker to hold the node")
        holder.kill(signal.SIGSTOP)
        if site.holder(job_id) is holder and can_write(site):
            return holder
        holder.kill(signal.SIGCONT)
        time.sleep(0.003)


def can_write(site: Site) -> bool:
    """Whether no process is within a transaction that writes."""
    file = sqlite_file(site.settings.database_url)
    assert file is not None
    connection = sqlite3.connect(file, timeout=0.0, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()
    return True


def wake(site: Site, sleeper: Member) -> None:
    """Let it go on, and wait until it has noticed that the node is no longer its own."""
    before = sleeper.says().count(DROPPED)
    sleeper.kill(signal.SIGCONT)
    site.wait(lambda: sleeper.says().count(DROPPED) > before, "the sleeper to drop the node")
