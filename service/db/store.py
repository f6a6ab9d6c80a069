"""The store: the whole storage contract in one object."""

from __future__ import annotations

from service.db.access import AccessStore
from service.db.afterwards import AfterwardsStore
from service.db.figures import FiguresStore
from service.db.gallery import GalleryStore
from service.db.jobs import JobStore
from service.db.leases import LeaseStore
from service.db.trials import TrialStore
from service.db.votes import VoteStore
from service.db.watching import WatchStore
from service.db.workers import WorkerStore


class Store(
    JobStore,
    LeaseStore,
    TrialStore,
    VoteStore,
    AfterwardsStore,
    WatchStore,
    AccessStore,
    WorkerStore,
    GalleryStore,
    FiguresStore,
):
    """Jobs, leases, trials, votes, what comes after them, and who may do what, in one SQL database.

    Every method is one transaction. Writes of a worker take its lease and raise LeaseLost once the
    lease is no longer the node's. `Store(url)` upgrades the schema and raises InputError on a bad URL or
    a database from a newer version.
    """
