"""The heartbeat of a leased node."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

from sqlalchemy.exc import SQLAlchemyError

from service.db.records import Lease
from service.db.store import Store
from service.errors import LeaseLost
from service.logs import with_fields

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.5


class Heartbeat:
    """Keeps a lease alive from a thread, at a third of its length, while the `with` block runs.

    `lost` is set when the node is no longer ours: paused, cancelled, or leased to another. That is looked
    at more often than the lease needs, so that a person who pauses or cancels need not wait.
    """

    def __init__(self, store: Store, lease: Lease, lease_seconds: float) -> None:
        self._store, self._lease, self._pause = store, lease, lease_seconds / 3
        self._stop = threading.Event()
        self.lost = threading.Event()
        self._thread = threading.Thread(target=with_fields(self._beat), name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        beaten = time.monotonic()
        while not self._stop.wait(min(self._pause, LOOK_SECONDS)):
            try:
                if time.monotonic() - beaten < self._pause:
                    self._store.check_lease(self._lease)
                    continue
                self._store.heartbeat(self._lease)
                beaten = time.monotonic()
            except LeaseLost as error:
                log.warning("%s", error)
                self.lost.set()
                return
            except SQLAlchemyError as error:
                # The database may be back before the lease ends; if not, the next write is refused.
                log.warning("no heartbeat for node %d: %s", self._lease.node_id, error)
