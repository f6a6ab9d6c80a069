"""Workers that die at the worst moment: between two steps that belong together."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from service.db.leases import LeaseStore
from service.db.records import Lease
from service.db.states import JobState, NodeState
from service.db.trials import TrialStore
from tests.storms.conftest import MakeSite, Undisturbed
from tests.storms.fleet import run_worker
from tests.storms.outcome import counted_twice, left_over
from tests.storms.site import Site

pytestmark = pytest.mark.slow

SEARCH = {"sampler": "random", "trials": 3, "seed": 3}
FOUND_AGAIN = "was written before its worker ended"


def die(*_arguments: Any, **_options: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def dies_before_the_row_of_its_file(installation: Path) -> None:
    LeaseStore.finish_node = die  # type: ignore[method-assign]
    run_worker(installation)


def dies_before_its_file_appears(installation: Path) -> None:
    announce = LeaseStore.announce_output

    def announce_and_die(self: LeaseStore, lease: Lease, sha256: str) -> None:
        announce(self, lease, sha256)
        die()

    LeaseStore.announce_output = announce_and_die  # type: ignore[method-assign]
    run_worker(installation)


def dies_before_the_rows_of_its_images(installation: Path) -> None:
    TrialStore.add_renders = die  # type: ignore[method-assign]
    run_worker(installation)


def dies_before_its_trial_ends(installation: Path) -> None:
    TrialStore.finish_trial = die  # type: ignore[method-assign]
    run_worker(installation)


def crash(site: Site, how: Callable[[Path], None]) -> str:
    """A job whose worker has died in this way."""
    job_id = site.queue(search=SEARCH)
    assert site.fleet.start_worker(how).wait() == -signal.SIGKILL
    assert site.node(job_id).state is NodeState.RUNNING, "a killed worker says nothing"
    return job_id


def finish(site: Site, job_id: str) -> str:
    """Let an ordinary worker finish; what it said."""
    worker = site.fleet.start_worker()
    assert site.wait_rest(job_id) is JobState.DONE
    assert counted_twice(site.store, job_id) == []
    assert left_over(site.settings.data_dir) == []
    return worker.says()


def test_a_file_without_its_row_is_found_again_and_not_written_twice(
    make_site: MakeSite, undisturbed: Undisturbed
) -> None:
    site = make_site("crashed")
    job_id = crash(site, dies_before_the_row_of_its_file)
    out = site.settings.outputs_dir / "merged.safetensors"
    written, rendered = out.stat(), site.fleet.renders()
    assert site.store.checkpoint(site.node(job_id).id) is None

    assert FOUND_AGAIN in finish(site, job_id)
    assert (out.stat().st_ino, out.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert site.fleet.renders() == rendered, "nothing is rendered again"
    assert site.outcome(job_id) == undisturbed(SEARCH)


def test_a_file_that_was_announced_and_never_appeared_is_written_again(site: Site) -> None:
    job_id = crash(site, dies_before_its_file_appears)
    announced, rendered = site.node(job_id).output_sha256, site.fleet.renders()
    assert announced is not None
    assert [path.suffix for path in site.settings.outputs_dir.iterdir()] == [".partial"]

    assert FOUND_AGAIN not in finish(site, job_id)
    assert site.outcome(job_id).files == {"merged.safetensors": announced}
    assert site.fleet.renders() == rendered, "nothing is rendered again"


def test_images_without_their_rows_are_rendered_again_into_the_same_files(site: Site) -> None:
    job_id = crash(site, dies_before_the_rows_of_its_images)
    (image,) = site.settings.renders_dir.glob("??/*.png")
    written = image.stat().st_ino
    assert site.renders(job_id) == 0

    finish(site, job_id)
    assert image.stat().st_ino == written
    assert site.fleet.renders() == site.outcome(job_id).renders + 1
    first = site.store.trials(site.node(job_id).id)[0]
    assert site.store.renders(first.id)[0].sha256 == image.stem


def test_a_trial_whose_renders_are_all_there_only_ends(site: Site) -> None:
    job_id = crash(site, dies_before_its_trial_ends)
    stored = site.renders(job_id)
    assert stored == 2

    finish(site, job_id)
    # The dead worker was already rendering the next trial.
    assert 0 <= site.fleet.renders() - site.outcome(job_id).renders <= 1
