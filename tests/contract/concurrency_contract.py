"""The storage contract of many at once: workers, the API's threads, and readers of the event stream."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from service.db.database import job_of, record
from service.db.records import JobRecord, NewCheckpoint, NewRender
from service.db.states import JOB_FINAL, JobState, NodeState, TrialKind
from service.db.store import Store
from service.errors import Conflict, LeaseLost
from tests.at_once import PATIENCE, in_processes, in_threads
from tests.contract.store_contract import SHA, leased, new_job, queued, run_trial

LEAVES = [f"leaf {number}" for number in range(20)]
"""Of a balanced tree whose ten lowest merges can begin at once."""


class ConcurrencyContract:
    """Several clients at once; `empty_url` is the database of `store`."""

    def test_processes_that_lease_at_once_get_each_node_once(self, store: Store, empty_url: str) -> None:
        jobs = [store.create_job(new_job(f"out {number}", LEAVES)) for number in range(5)]
        taken = in_processes(lease_all, [(empty_url, "one"), (empty_url, "two")])
        ready = [node.id for job in jobs for node in store.nodes(job.id) if node.level == 1]
        assert len(ready) == 50
        assert sorted(taken[0] + taken[1]) == sorted((node_id, 1) for node_id in ready)

    def test_threads_that_lease_at_once_get_each_node_once(self, store: Store) -> None:
        job = store.create_job(new_job("out", LEAVES))
        taken = in_threads(lease_of, [(store, f"thread {number}") for number in range(12)])
        nodes = [node_id for node_id in taken if node_id is not None]
        assert sorted(nodes) == sorted(node.id for node in store.nodes(job.id) if node.level == 1)

    def test_of_jobs_that_are_queued_at_once_one_gets_the_output(self, store: Store) -> None:
        def attempt(_number: int) -> JobRecord | None:
            try:
                return queued(store)
            except Conflict:
                return None

        made = in_threads(attempt, [(number,) for number in range(8)])
        assert [job for job in made if job is not None] == store.jobs()

    def test_workers_finish_a_tree_together(self, store: Store, tmp_path: Path) -> None:
        """Nodes that end at the same moment see each other's end: the next level begins, the job ends."""
        job = store.create_job(new_job("out", LEAVES))
        in_threads(work_on, [(store, job.id, f"worker {number}", tmp_path) for number in range(4)])
        assert store.job(job.id).state is JobState.DONE
        for node in store.nodes(job.id):
            assert (node.state, node.lease) == (NodeState.DONE, 1)
            assert [trial.score for trial in store.trials(node.id)] == [0.5] * 3
            assert store.render_totals(node.id)[0] == 6

    def test_a_job_is_cancelled_under_its_workers(self, store: Store) -> None:
        job = store.create_job(new_job("out", LEAVES))
        leases = [leased(store, f"worker {number}") for number in range(4)]

        def write(number: int) -> bool:
            for trial in range(10_000):
                try:
                    run_trial(store, leases[number], trial, 0.5)
                except LeaseLost:
                    return True
            return False

        def cancel(_number: int) -> bool:
            time.sleep(0.3)
            return store.cancel_job(job.id).state is JobState.CANCELLED

        with_workers = [(write, number) for number in range(4)]
        assert all(in_threads(lambda do, number: do(number), [*with_workers, (cancel, -1)]))
        assert {node.state for node in store.nodes(job.id)} == {NodeState.CANCELLED}

    def test_an_event_is_never_committed_below_one_that_was_read(self, store: Store) -> None:
        """An event of a later transaction waits for that of an earlier one, which is still open."""
        job = queued(store)
        seen = store.last_event_id(job.id)
        later = threading.Thread(target=store.cancel_job, args=(job.id,))
        with store._write() as session:
            job_of(session, job.id)
            record(session, job.id, "first", {})
            session.flush()
            later.start()
            later.join(0.5)
            assert store.events(job.id, after=seen) == []
        later.join(PATIENCE)
        kinds = [event.kind for event in store.events(job.id, after=seen)]
        assert kinds[0] == "first"
        assert len(kinds) > 1

    def test_a_reader_misses_no_event_of_concurrent_writers(self, store: Store, tmp_path: Path) -> None:
        job = store.create_job(new_job("out", LEAVES))

        def read(_store: Store, job_id: str, _name: str, _folder: Path) -> list[int]:
            read: list[int] = []
            while True:
                state = store.job(job_id).state
                found = store.events(job_id, after=read[-1] if read else 0, limit=7)
                read += [event.id for event in found]
                if not found and state in JOB_FINAL:
                    return read

        clients = [(read, "reader"), *((work_on, f"worker {number}") for number in range(4))]
        everyone = [(do, (store, job.id, name, tmp_path)) for do, name in clients]
        read_ids = in_threads(lambda do, given: do(*given), everyone)[0]
        assert read_ids == [event.id for event in store.events(job.id, limit=10_000)]
        assert len(read_ids) > 100


def lease_of(store: Store, owner: str) -> int | None:
    """The node that a worker gets, or None."""
    lease = store.lease_node(owner, 60)
    return None if lease is None else lease.node_id


def lease_all(url: str, name: str) -> list[tuple[int, int]]:
    """(node, number of its lease) of all nodes that this process gets before there are no more."""
    store = Store(url)
    taken: list[tuple[int, int]] = []
    # A worker is given the node it holds again, so each lease is that of another worker.
    while lease := store.lease_node(f"{name} {len(taken)}", 600):
        taken.append((lease.node_id, lease.number))
    store.close()
    return taken


def work_on(store: Store, job_id: str, owner: str, folder: Path) -> None:
    """Lease nodes of a job and finish them, three trials of two renders each, until the job is over."""
    end = time.monotonic() + PATIENCE
    while store.job(job_id).state not in JOB_FINAL:
        assert time.monotonic() < end, f"{store.job(job_id)} does not end: {store.nodes(job_id)}"
        lease = store.lease_node(owner, 600, job_id=job_id)
        if lease is None:
            time.sleep(0.01)
            continue
        for number in range(3):
            trial = store.open_trial(lease, TrialKind.SEARCH, number, {"IN00": 0.5})
            store.add_renders(lease, trial.id, [NewRender(i, SHA, 0.1, {"clip": 0.5}) for i in range(2)])
            store.finish_trial(lease, trial.id, 0.5, 1.0, {})
            store.heartbeat(lease)
        name = store.node(lease.node_id).output
        made = NewCheckpoint(name, folder / f"{name}.safetensors", f"{lease.node_id:064x}", 9, {}, {})
        store.finish_node(lease, 0.5, made)
