"""A disk that is full or read-only: nothing is lost, and the reason says what to do."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.db.states import JobState, NodeState
from service.worker import Worker
from tests.storms.conftest import MakeSite, Undisturbed
from tests.storms.mounts import filled, read_only, resize, small_disk
from tests.storms.outcome import counted_twice, left_over
from tests.storms.site import Site

pytestmark = pytest.mark.slow

SEARCH = {"sampler": "random", "trials": 5, "seed": 3}
REMEDY = r"make room.*then (resume|retry)"


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: what a full disk does, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_result_that_could_not_be_written_is_finished_without_searching_again(site: Site) -> None:
    job_id = site.queue()
    site.settings.outputs_dir.mkdir(parents=True, exist_ok=True)
    precious = site.settings.outputs_dir / "older.safetensors"
    precious.write_bytes(b"older")
    model = site.settings.models_dir / "left.safetensors"
    with files_limited_to(model.stat().st_size // 4):
        Worker(site.settings, site.store).run_job(job_id)
    node = site.node(job_id)
    assert node.state is NodeState.EXPORT_FAILED
    assert "merged.safetensors could not be written" in (node.reason or "")
    assert [path.name for path in site.settings.outputs_dir.iterdir()] == ["older.safetensors"]
    searched = site.store.trials(node.id)

    site.store.retry_job(job_id)
    site.fleet.start_worker()
    assert site.wait_rest(job_id) is JobState.DONE
    assert site.store.trials(node.id) == searched, "nothing was searched or rendered again"
    assert precious.read_bytes() == b"older"
    assert left_over(site.settings.data_dir) == []


def test_nothing_is_written_beside_the_models(make_site: MakeSite, four_models: Path) -> None:
    site = make_site(models_dir=four_models, scorers_dir=four_models.parent / "scorers")
    with read_only(four_models), read_only(four_models.parent / "scorers"):
        with pytest.raises(OSError, match=r"Read-only|Permission denied"):
            (four_models / "new").touch()
        before = listing(four_models.parent)
        site.run(leaves=["ann", "bob", "cat"], search=SEARCH)
        assert listing(four_models.parent) == before


def listing(folder: Path) -> list[tuple[Path, int, int]]:
    """Everything below a folder, with size and time of the last change."""
    return [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))]


def test_a_full_disk_of_results_costs_no_search(
    make_site: MakeSite, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    outputs = tmp_path / "full" / "data" / "outputs"
    with small_disk(outputs, 10):
        site = make_site("full", reserve_mb=0)
        job_id = site.queue(search=SEARCH)
        worker = site.fleet.start_worker()
        assert site.wait_rest(job_id) is JobState.PAUSED
        assert re.search(REMEDY, site.node(job_id).reason or "")
        assert list(outputs.iterdir()) == []
        rendered = worker.renders()

        resize(outputs, 100)
        site.store.resume_job(job_id)
        assert site.wait_rest(job_id) is JobState.DONE
        assert worker.renders() == rendered, "nothing is searched or rendered again"
        assert site.outcome(job_id) == undisturbed(SEARCH)


def test_a_disk_that_fills_while_images_are_stored_loses_none(
    make_site: MakeSite, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    renders = tmp_path / "full" / "data" / "renders"
    with small_disk(renders, 64):
        site = make_site("full", reserve_mb=0)
        job_id = site.queue(search=SEARCH)
        site.fleet.start_worker()
        site.wait_renders(job_id, 3)
        with filled(renders):
            assert site.wait_rest(job_id) is JobState.PAUSED
            assert left_over(renders) == []
        reason = site.node(job_id).reason or ""
        assert re.search(REMEDY, reason), reason
        assert str(renders) in reason

        site.store.resume_job(job_id)
        assert site.wait_rest(job_id) is JobState.DONE
        assert site.outcome(job_id) == undisturbed(SEARCH)
        assert counted_twice(site.store, job_id) == []


def test_a_job_waits_for_room_for_its_database(
    make_site: MakeSite, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    data = tmp_path / "full" / "data"
    with small_disk(data, 128):
        site = make_site("full", reserve_mb=0)
        job_id = site.queue(search=SEARCH)
        worker = site.fleet.start_worker()
        site.wait_renders(job_id, 3)
        with filled(data):
            site.wait(lambda: "full" in worker.says(), "the worker to say that the disk is full")
            time.sleep(3.0)
        assert worker.is_alive
        if site.wait_rest(job_id) is JobState.PAUSED:
            site.store.resume_job(job_id)
            site.wait_rest(job_id)
        assert site.store.job(job_id).state is JobState.DONE
        assert site.outcome(job_id) == undisturbed(SEARCH)
        assert counted_twice(site.store, job_id) == []
        site.fleet.end()
        site.store.close()
