"""A disk that is full: nothing is lost, and the reason says what to do."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service.db.states import JobState, NodeState
from service.worker import Worker
from tests.storms.outcome import left_over
from tests.storms.site import Site

pytestmark = pytest.mark.slow


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
