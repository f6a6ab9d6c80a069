"""What many look at is read once, and is what a reading from the start would be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import recent_progress as module
from service.dashboard.node_topics import NodeReader
from service.db.gallery import Wanted
from service.db.states import TrialKind
from service.db.store import Store
from service.errors import NotFound
from service.progress import JobProgress, job_progress
from service.recent_progress import recent_progress
from service.settings import Settings
from tests.unit.service.searched import queue, run_trial, settings_in, weights_of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = Store(settings.database_url)
    yield store
    store.close()


def test_a_job_is_worked_out_once_for_each_event(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = queue(store)
    asked: list[str] = []

    def counted(of: Store, job: str) -> JobProgress:
        asked.append(job)
        return job_progress(of, job)

    monkeypatch.setattr(module, "job_progress", counted)
    first = recent_progress(store, job_id)
    assert recent_progress(store, job_id) is first
    store.pause_job(job_id)
    second = recent_progress(store, job_id)
    assert second.event_id > first.event_id
    assert (first.progress.state, second.progress.state) == ("queued", "paused")
    assert json.loads(second.json) == second.progress.model_dump(mode="json")
    assert asked == [job_id] * 2
    with pytest.raises(NotFound):
        recent_progress(store, "nope")


def test_a_node_that_is_followed_is_what_it_is_to_who_comes_now(store: Store, settings: Settings) -> None:
    job_id = queue(store)
    lease = store.lease_node("host:1:w", 30, job_id=job_id)
    assert lease is not None
    node = store.node(lease.node_id)
    follower, stranger = NodeReader(job_id, node.name), Store(settings.database_url)

    def check() -> None:
        assert follower(store) == NodeReader(job_id, node.name)(stranger)
        assert store.render_totals(node.id) == stranger.render_totals(node.id)
        assert store.gallery_size(Wanted()) == len(store.gallery(Wanted(), after=None, limit=1000))

    try:
        for number in range(4):
            run_trial(store, settings, lease, TrialKind.SEARCH, number)
            check()
        store.open_trial(lease, TrialKind.SEARCH, 4, weights_of(4))
        check()
        run_trial(store, settings, lease, TrialKind.SEARCH, 4)
        check()
        store.end_search(lease, "all are done")
        run_trial(store, settings, lease, TrialKind.HELDOUT_A, 0)
        check()
        assert store.gallery_size(Wanted(job=job_id, kinds=[TrialKind.HELDOUT_A])) == 2
        assert [trial.number for trial in follower(store).trials] == [0, 0, 1, 2, 3, 4]
        assert store.render_totals(node.id) == (17, 17 * 0.25)
    finally:
        stranger.close()
