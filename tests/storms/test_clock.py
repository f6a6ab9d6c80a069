"""A clock that is moved back an hour, and forward again, while two workers are at it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from service.db.states import JobState
from tests.storms.conftest import MakeSite, Undisturbed
from tests.storms.fleet import run_worker
from tests.storms.outcome import counted_twice, left_over
from tests.storms.site import Site

pytestmark = pytest.mark.slow

SEARCH = {"sampler": "gp", "trials": 14, "seed": 3}
MOVED = "clock-moved-back"


def worker_with_a_movable_clock(installation: Path) -> None:
    """A worker whose clock is an hour late while there is a file beside the settings."""
    true_time, moved = time.time, installation.parent / MOVED
    time.time = lambda: true_time() - 3600.0 * moved.exists()
    run_worker(installation)


def test_a_clock_that_jumps_changes_nothing(make_site: MakeSite, undisturbed: Undisturbed) -> None:
    site = make_site("jumping")
    job_id = site.queue(search=SEARCH)
    moved = site.fleet.installation.parent / MOVED
    workers = [site.fleet.start_worker(worker_with_a_movable_clock) for _ in range(2)]
    site.wait_renders(job_id, 5)
    moved.touch()
    site.wait_renders(job_id, 15)
    moved.unlink()
    assert site.wait_rest(job_id) is JobState.DONE
    assert all(worker.is_alive for worker in workers)
    assert site.outcome(job_id) == undisturbed(SEARCH)
    assert counted_twice(site.store, job_id) == []
    assert left_over(site.settings.data_dir) == []


def test_a_worker_that_died_before_the_clock_was_moved_back_does_not_keep_its_node(site: Site) -> None:
    job_id = site.queue(search={"sampler": "random", "trials": 4})
    dead = site.fleet.start_worker()
    site.wait_renders(job_id, 2)
    dead.kill()
    dead.wait()
    (site.fleet.installation.parent / MOVED).touch()
    site.fleet.start_worker(worker_with_a_movable_clock)
    assert site.wait_rest(job_id) is JobState.DONE
