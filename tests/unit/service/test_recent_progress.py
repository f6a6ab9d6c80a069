"""What many look at is read once, and is what a reading from the start would be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy.orm import Session

from service import recent_progress as module
from service.dashboard.node_topics import NodeReader
from service.db.gallery import Wanted
from service.db.records import NewRender, NodeRecord
from service.db.states import NodeState, TrialKind
from service.db.store import Store
from service.errors import NotFound
from service.progress import Standing, job_progress, standing
from service.recent_progress import recent_progress
from service.settings import Settings
from tests.unit.service.searched import finish, queue, run_trial, search, search_all, weights_of


def three_renders() -> list[NewRender]:
    return [NewRender(probe, "0" * 64, 0.25, {"clip": 0.5, "laion-v2": 0.5}) for probe in range(3)]


def test_a_job_is_worked_out_once_for_each_event(store: Store) -> None:
    job_id = queue(store)
    first = recent_progress(store, job_id)
    assert recent_progress(store, job_id) is first
    store.pause_job(job_id)
    second = recent_progress(store, job_id)
    assert second.event_id > first.event_id
    assert (first.progress.state, second.progress.state) == ("queued", "paused")
    assert json.loads(second.json) == second.progress.model_dump(mode="json")
    with pytest.raises(NotFound):
        recent_progress(store, "nope")


def test_of_a_node_of_which_a_render_was_stored_only_the_renders_are_counted(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = queue(store, ("one", "two", "three"))
    lease = store.lease_node("host:1:w", 30, job_id=job_id)
    assert lease is not None
    recent_progress(store, job_id)
    looked_at: list[str] = []

    def counted(of: Store, node: NodeRecord) -> Standing:
        looked_at.append(node.name)
        return standing(of, node)

    monkeypatch.setattr(module, "standing", counted)
    trial = store.open_trial(lease, TrialKind.SEARCH, 0, weights_of(0))
    store.add_renders(lease, trial.id, three_renders())
    assert recent_progress(store, job_id).progress.nodes[0].renders == 3
    assert looked_at == []
    run_trial(store, settings, lease, TrialKind.SEARCH, 1)
    assert recent_progress(store, job_id).progress.nodes[0].trials_done == 1
    assert looked_at == [store.node(lease.node_id).name]


def test_after_every_write_it_is_what_a_reading_from_the_start_would_be(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, stranger, writes = queue(store, ("one", "two", "three")), Store(settings.database_url), 0
    write = Store._write

    @contextmanager
    def watched(self: Store) -> Iterator[Session]:
        nonlocal writes
        with write(self) as session:
            yield session
        writes += 1
        assert recent_progress(store, job_id).progress == job_progress(stranger, job_id)

    monkeypatch.setattr(Store, "_write", watched)
    try:
        lease = store.lease_node("host:1:w", 30, job_id=job_id)
        assert lease is not None
        store.note(lease, "it is warm here")
        trial = store.open_trial(lease, TrialKind.SEARCH, 14, weights_of(14))
        store.fail_trial(lease, trial.id, "a black image", 1.0, {})
        search(store, settings, lease, 14)
        assert recent_progress(store, job_id).progress.nodes[0].going_on is not None
        finish(store, settings, lease)
        store.pause_job(job_id)
        store.resume_job(job_id)
        store.set_priority(job_id, 3)
        search_all(store, settings, job_id)
        assert {node.state for node in store.nodes(job_id)} == {NodeState.DONE}
        store.extend_node(job_id, store.nodes(job_id)[1].name, 2)
        store.cancel_job(job_id)
        assert writes > 100
    finally:
        stranger.close()


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


def test_charts_are_drawn_anew_only_after_a_trial_has_ended(store: Store, settings: Settings) -> None:
    job_id = queue(store)
    lease = store.lease_node("host:1:w", 30, job_id=job_id)
    assert lease is not None
    follower = NodeReader(job_id, store.node(lease.node_id).name)
    run_trial(store, settings, lease, TrialKind.SEARCH, 0)
    view = follower(store)
    view.once("a chart", lambda: "of one trial")
    trial = store.open_trial(lease, TrialKind.SEARCH, 1, weights_of(1))
    store.add_renders(lease, trial.id, three_renders())
    later = follower(store)
    assert later.progress.renders > view.progress.renders
    assert later.once("a chart", lambda: "another") == "of one trial"
    store.finish_trial(lease, trial.id, 0.5, 1.5, {})
    assert follower(store).once("a chart", lambda: "of two trials") == "of two trials"
