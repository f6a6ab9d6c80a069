"""The storage contract of the list of workers and of the gallery."""

from __future__ import annotations

from service.db.gallery import Place, Wanted
from service.db.records import NewRender, WorkerSign
from service.db.states import TrialKind
from service.db.store import Store
from tests.contract.store_contract import OTHER, SHA, WORKER, leased, queued, queued_and_leased


def a_sign(owner: str = WORKER) -> WorkerSign:
    """A sign of life."""
    return WorkerSign(owner, "host", int(owner.split(":")[1]), "cuda:0", "a GPU", 3 * 10**9, 24 * 10**9, 1.0)


class WorkerContract:
    """Who lives and what they do, and what was rendered."""

    def test_a_worker_is_listed_with_what_it_works_on(self, store: Store) -> None:
        store.show_worker(a_sign(), 60)
        (idle,) = store.workers()
        assert (idle.task, idle.memory_total, idle.device_name) == (None, 24 * 10**9, "a GPU")
        job = queued(store)
        trial = store.open_trial(leased(store), TrialKind.SEARCH, 0, {})
        store.show_worker(a_sign(), 60)
        (busy,) = store.workers()
        assert busy.task is not None
        assert (busy.task.job, busy.task.node, busy.task.trial) == (job.id, "01b", trial.number)
        assert busy.heartbeat_at > idle.heartbeat_at

    def test_who_is_silent_or_gone_is_taken_off(self, store: Store) -> None:
        store.show_worker(a_sign(WORKER), 60)
        store.show_worker(a_sign(OTHER), 0)
        assert [worker.owner for worker in store.workers()] == [OTHER]
        store.remove_worker(OTHER)
        assert store.workers() == []

    def test_the_gallery_has_all_renders_once_page_by_page(self, store: Store) -> None:
        lease = queued_and_leased(store)
        for number, kind in ((0, TrialKind.SEARCH), (1, TrialKind.SEARCH), (0, TrialKind.HELDOUT_A)):
            trial = store.open_trial(lease, kind, number, {})
            store.add_renders(lease, trial.id, [NewRender(p, SHA, 0.1, {"clip": 0.2}) for p in (0, 1, 2)])
            store.finish_trial(lease, trial.id, 0.5, 1.0, {})
        everything = store.gallery(Wanted(), after=None, limit=100)
        assert store.gallery_size(Wanted()) == len(everything) == 9
        assert [(r.kind, r.trial, r.probe) for r in everything[:4]] == [
            (TrialKind.HELDOUT_A, 0, 0),
            (TrialKind.HELDOUT_A, 0, 1),
            (TrialKind.HELDOUT_A, 0, 2),
            (TrialKind.SEARCH, 1, 0),
        ]
        paged, place = [], None
        while page := store.gallery(Wanted(), after=place, limit=2):
            paged += page
            place = Place(page[-1].trial_id, page[-1].probe)
        assert paged == everything
        one = Wanted(lease.job_id, "01b", [TrialKind.SEARCH], 1, 2)
        assert [(r.trial, r.probe) for r in store.gallery(one, after=None, limit=9)] == [(1, 2)]
        assert store.gallery_size(Wanted(job="another")) == 0
