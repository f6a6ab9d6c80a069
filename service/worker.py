"""The worker: leases nodes and runs them, one after the other, until it is told to stop."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable
from types import FrameType

from sqlalchemy.exc import SQLAlchemyError

from scoring.errors import InputError
from scoring.hub import keep_off_hub
from service.catalog import Catalog
from service.db.records import Lease
from service.db.states import JOB_AT_REST
from service.db.store import Store
from service.disk import DiskNearlyFull
from service.errors import Interrupted, LeaseLost
from service.heartbeat import Heartbeat
from service.images import sweep_temporaries
from service.jobs import NodePlan
from service.logs import about
from service.node_context import ExportFailed, NodeContext, NodePaused
from service.node_run import run_node
from service.presence import Presence
from service.processes import is_alive
from service.settings import Settings
from service.tracing import span
from service.votes.run import VotesNeeded

log = logging.getLogger(__name__)
IDLE_SECONDS = 0.3
REMEDY = "make room or mend that, then resume the job"
STOPPING = (signal.SIGTERM, signal.SIGINT)


class Worker:
    """One worker process. `stop` may be set from a signal handler or another thread."""

    def __init__(self, settings: Settings, store: Store, *, parent: int | None = None) -> None:
        if not settings.allow_hub:
            keep_off_hub()
        self.settings, self.store, self._parent = settings, store, parent
        self.catalog = Catalog(settings.models_dir)
        self.stop = threading.Event()
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    def run(self) -> None:
        """Work until stopped."""
        with Presence(self.store, self.owner, self.settings.resolved_device()):
            while not self._stopped():
                if not self._guarded(self.run_one):
                    self.stop.wait(IDLE_SECONDS)

    def run_job(self, job_id: str) -> None:
        """Work on one job until nothing more happens in it, or until stopped."""
        with Presence(self.store, self.owner, self.settings.resolved_device()):
            while not self._stopped() and not self._guarded(lambda: self._rests(job_id)):
                if not self._guarded(lambda: self.run_one(job_id)):
                    self.stop.wait(IDLE_SECONDS)

    def run_one(self, job_id: str | None = None) -> bool:
        """Lease one node and work on it; False when there was none."""
        release_dead(self.store)
        sweep_temporaries(self.settings.renders_dir)
        lease = self.store.lease_node(self.owner, self.settings.lease_seconds, job_id=job_id)
        if lease is None:
            return False
        with (
            about(job=lease.job_id, node=lease.node_id),
            span("node", job=lease.job_id, node=lease.node_id),
        ):
            log.info("node %d of job %s, lease %d", lease.node_id, lease.job_id, lease.number)
            with Heartbeat(self.store, lease, self.settings.lease_seconds) as heartbeat:
                self._work(lease, lambda: self._check(lease, heartbeat))
        return True

    def _work(self, lease: Lease, check: Callable[[], None]) -> None:
        try:
            self._run_node(lease, check)
        except LeaseLost as error:
            log.warning("dropped node %d: %s", lease.node_id, error)

    def _run_node(self, lease: Lease, check: Callable[[], None]) -> None:
        try:
            node = self.store.node(lease.node_id)
            plan = NodePlan.model_validate(node.plan)
            run_node(NodeContext(self.settings, self.store, self.catalog, lease, node, plan, check))
        except Interrupted:
            self.store.release(lease)
        except VotesNeeded as error:
            self.store.await_votes(lease, error.needed, str(error))
        except NodePaused as error:
            self.store.pause_node(lease, str(error))
        except ExportFailed as error:
            self.store.fail_export(lease, str(error))
        except InputError as error:
            self.store.fail_node(lease, str(error))
        except DiskNearlyFull as error:
            self.store.pause_node(lease, str(error))
        except OSError as error:
            log.exception("node %d", lease.node_id)
            self.store.pause_node(lease, f"cannot write or read: {error}; {REMEDY}")
        except (LeaseLost, SQLAlchemyError):
            raise
        except Exception as error:
            log.exception("node %d", lease.node_id)
            self.store.fail_node(lease, f"{type(error).__name__}: {error}; the worker's log says more")

    def _check(self, lease: Lease, heartbeat: Heartbeat) -> None:
        if self._stopped():
            raise Interrupted
        if heartbeat.lost.is_set():
            raise LeaseLost(f"lease {lease.number} of node {lease.node_id} ended")

    def _rests(self, job_id: str) -> bool:
        return self.store.job(job_id).state in JOB_AT_REST

    def _stopped(self) -> bool:
        # An orphan would go on computing beside the worker that the next `serve` starts.
        if self._parent is not None and os.getppid() != self._parent:
            self.stop.set()
        return self.stop.is_set()

    def _guarded(self, step: Callable[[], bool]) -> bool:
        """A database that is away for a while must not end the worker; the lease covers the node."""
        try:
            return step()
        except SQLAlchemyError as error:
            log.error("database: %s", error)
            self.stop.wait(2.0)
            return False


def release_dead(store: Store) -> None:
    """Hand back the nodes of workers of this machine whose process is gone, without waiting for the lease."""
    for owner in store.owners():
        host, pid, _ = owner.rsplit(":", 2)
        if host == socket.gethostname() and not is_alive(int(pid)):
            store.release_owner(owner)
    for worker in store.workers():
        if worker.host == socket.gethostname() and not is_alive(worker.pid):
            store.remove_worker(worker.owner)


def stop_on_signals(stop: threading.Event) -> None:
    """SIGTERM and SIGINT set `stop`; a second one leaves at once."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        # Not from Python: a handler would wait until a long call into torch returns.
        for number in STOPPING:
            signal.signal(number, signal.SIG_DFL)

    for number in STOPPING:
        signal.signal(number, handle)
