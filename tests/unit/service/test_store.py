"""The storage contract: what any database under the store must do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.db.records import Lease, NewCheckpoint, NewNode, NewRender
from service.db.states import JobState, NodeState, TrialKind, TrialState
from service.db.store import Store
from service.errors import Conflict, LeaseLost, NotFound

SHA = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    yield store
    store.close()


def new_node(output: str = "out") -> NewNode:
    return NewNode("left", "right", "1" * 64, "2" * 64, output, {"search": {"trials": 3}})


def queue(store: Store, output: str = "out") -> str:
    return store.create_job("a job", {"output": output}, [new_node(output)]).id


def leased(store: Store, seconds: float = 30.0) -> Lease:
    lease = store.lease_node("host:1:w", seconds)
    assert lease is not None
    return lease


def run_trial(store: Store, lease: Lease, number: int, score: float | None) -> None:
    trial = store.open_trial(lease, TrialKind.SEARCH, number, {"IN00": number / 10})
    if score is None:
        store.fail_trial(lease, trial.id, "black image", 1.0, {})
    else:
        store.finish_trial(lease, trial.id, score, 1.0, {})


def test_a_job_is_queued_with_its_nodes_and_its_first_event(store: Store) -> None:
    job_id = queue(store)
    assert store.job(job_id).state is JobState.QUEUED
    assert [node.state for node in store.nodes(job_id)] == [NodeState.READY]
    assert [event.kind for event in store.events(job_id)] == ["job.created"]


def test_an_unknown_job_is_named(store: Store) -> None:
    with pytest.raises(NotFound, match="no job 'nope'"):
        store.job("nope")


def test_two_jobs_cannot_write_the_same_output(store: Store) -> None:
    first = queue(store)
    with pytest.raises(Conflict, match=f"output 'out' belongs to job {first}"):
        queue(store)
    store.cancel_job(first)
    queue(store)


def test_a_node_is_leased_once(store: Store) -> None:
    job_id = queue(store)
    lease = leased(store)
    assert (lease.job_id, lease.number) == (job_id, 1)
    assert store.lease_node("host:2:w", 30) is None
    assert store.job(job_id).state is JobState.RUNNING


def test_the_oldest_job_comes_first(store: Store) -> None:
    first, _ = queue(store, "one"), queue(store, "two")
    assert leased(store).job_id == first


def test_a_silent_worker_loses_its_node_and_its_late_writes_are_refused(store: Store) -> None:
    queue(store)
    late = leased(store, seconds=0.05)
    trial = store.open_trial(late, TrialKind.SEARCH, 0, {"IN00": 0.5})
    time.sleep(0.1)
    successor = store.lease_node("host:2:w", 30)
    assert successor is not None
    assert successor.number == late.number + 1
    for write in (
        lambda: store.heartbeat(late),
        lambda: store.open_trial(late, TrialKind.SEARCH, 1, {}),
        lambda: store.add_renders(late, trial.id, [NewRender(0, SHA, 0.1, {"clip": 0.3})]),
        lambda: store.finish_trial(late, trial.id, 0.3, 1.0, {}),
        lambda: store.end_search(late, "late"),
        lambda: store.release(late),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert store.renders(trial.id) == []


def test_a_heartbeat_keeps_the_lease(store: Store) -> None:
    queue(store)
    lease = leased(store, seconds=0.3)
    for _ in range(4):
        time.sleep(0.1)
        store.heartbeat(lease)
    assert store.lease_node("host:2:w", 30) is None


def test_a_heartbeat_from_the_future_holds_no_node(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    queue(store)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    leased(store)
    monkeypatch.setattr(time, "time", lambda: now)
    assert store.lease_node("host:2:w", 30) is not None, "the clock was moved back an hour"


def test_the_nodes_of_a_dead_worker_are_handed_back(store: Store) -> None:
    job_id = queue(store)
    leased(store)
    assert store.owners() == {"host:1:w"}
    assert store.release_owner("host:1:w") == 1
    assert store.job(job_id).state is JobState.QUEUED


def test_a_trial_left_open_is_found_again_with_its_weights_and_renders(store: Store) -> None:
    queue(store)
    lease = leased(store)
    weights = {"IN00": 0.1 + 0.2, "OUT": 1 / 3}
    trial = store.open_trial(lease, TrialKind.SEARCH, 0, weights)
    store.add_renders(lease, trial.id, [NewRender(1, SHA, 0.1, {"clip": 0.3, "laion": 5.0})])
    again = store.open_trial(lease, TrialKind.SEARCH, 0, {"IN00": 0.9})
    assert again == trial
    assert again.weights == weights, "to the last bit"
    assert [(r.probe, r.scores) for r in store.renders(trial.id)] == [(1, {"clip": 0.3, "laion": 5.0})]


def test_failed_trials_have_no_score_and_are_counted_until_one_succeeds(store: Store) -> None:
    queue(store)
    lease = leased(store)
    counts = []
    for number in range(2):
        trial = store.open_trial(lease, TrialKind.SEARCH, number, {})
        counts.append(store.fail_trial(lease, trial.id, "black image", 1.0, {}))
    run_trial(store, lease, 2, 0.5)
    trial = store.open_trial(lease, TrialKind.SEARCH, 3, {})
    counts.append(store.fail_trial(lease, trial.id, "black image", 1.0, {}))
    assert counts == [1, 2, 1]
    assert [score for _, _, score, _ in store.ended_trials(lease.node_id)] == [None, None, 0.5, None]
    assert store.trial_counts(lease.node_id) == {TrialState.FAILED: 3, TrialState.DONE: 1}


def test_the_best_trial_is_the_earliest_of_the_highest(store: Store) -> None:
    queue(store)
    lease = leased(store)
    assert store.best_trial(lease.node_id) is None
    for number, score in enumerate([0.2, None, 0.7, 0.7, 0.1]):
        run_trial(store, lease, number, score)
    best = store.best_trial(lease.node_id)
    assert best is not None
    assert best.number == 2


def test_a_trial_ends_once(store: Store) -> None:
    queue(store)
    lease = leased(store)
    run_trial(store, lease, 0, 0.5)
    trial = store.trials(lease.node_id)[0]
    with pytest.raises(Conflict, match="is done and cannot become failed"):
        store.fail_trial(lease, trial.id, "late", 1.0, {})


def test_cancelling_ends_the_lease_and_the_open_trial(store: Store) -> None:
    job_id = queue(store)
    lease = leased(store)
    store.open_trial(lease, TrialKind.SEARCH, 0, {})
    assert store.cancel_job(job_id).state is JobState.CANCELLED
    with pytest.raises(LeaseLost):
        store.heartbeat(lease)
    assert [trial.state for trial in store.trials(lease.node_id)] == [TrialState.CANCELLED]
    with pytest.raises(Conflict, match="nothing left to cancel"):
        store.cancel_job(job_id)


@pytest.mark.parametrize("stop", ["pause_node", "fail_node", "fail_export"])
def test_what_stopped_can_be_retried(stop: str, store: Store) -> None:
    job_id = queue(store)
    getattr(store, stop)(leased(store), "a reason")
    assert store.nodes(job_id)[0].reason == "a reason"
    assert store.lease_node("host:2:w", 30) is None
    assert store.retry_job(job_id).state is JobState.QUEUED
    assert leased(store).number == 2


def test_there_is_nothing_to_retry_in_a_queued_job(store: Store) -> None:
    with pytest.raises(Conflict, match="nothing to retry"):
        store.retry_job(queue(store))


def test_the_end_of_a_node_is_its_checkpoint(store: Store, tmp_path: Path) -> None:
    job_id = queue(store)
    lease = leased(store)
    store.end_search(lease, "all 3 trials are done")
    store.finish_node(lease, NewCheckpoint("out", tmp_path / "out.safetensors", SHA, 9, {"x": 1}, {"y": 2}))
    assert store.job(job_id).state is JobState.DONE
    made = store.checkpoint(lease.node_id)
    assert made is not None
    assert (made.sha256, made.recipe) == (SHA, {"y": 2})


def test_events_can_be_read_on_from_any_of_them(store: Store) -> None:
    job_id = queue(store)
    run_trial(store, leased(store), 0, 0.5)
    events = store.events(job_id)
    assert [event.kind for event in events] == [
        "job.created",
        "node.state",
        "job.state",
        "lease.taken",
        "trial.opened",
        "trial.done",
    ]
    assert store.events(job_id, after=events[2].id) == events[3:]


def test_an_unfinished_job_is_found_by_its_request(store: Store) -> None:
    job_id = queue(store)
    found = store.unfinished_job({"output": "out"})
    assert found is not None
    assert found.id == job_id
    assert store.unfinished_job({"output": "other"}) is None
    store.cancel_job(job_id)
    assert store.unfinished_job({"output": "out"}) is None
