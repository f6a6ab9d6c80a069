"""Progress of jobs that many look at, worked out once for each event of the job.

All that a job shows changes with an event (that is what its ETag says), so until the next one the same answer
holds for every reader, be it the API or a page. After it only those nodes are looked at to which something
happened, and of these only the renders are counted where that was all.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from service.db.records import NodeRecord
from service.db.store import Store
from service.progress import JobProgress, Standing, job_progress, standing

KEPT = 100


@dataclass(frozen=True)
class Known:
    """A job as it was at an event, or a moment later. json: the same as it is sent; standings: by node id."""

    event_id: int
    progress: JobProgress
    json: bytes
    standings: Mapping[int, Standing]


class _Recent:
    """What is known of the jobs of one store. Two who ask for the same job at once wait for one reading."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._lock = threading.Lock()
        self._reading: dict[str, threading.Lock] = {}

    def of(self, store: Store, job_id: str, event_id: int) -> Known:
        with self._lock:
            lock = self._reading.setdefault(job_id, threading.Lock())
        with lock:
            known = self._known.get(job_id)
            if known is None or known.event_id < event_id:
                # Asked again: others wait meanwhile for events that came after this one's, and need no
                # reading of their own.
                known = _read(store, job_id, known)
                self._keep(job_id, known)
        return known

    def _keep(self, job_id: str, known: Known) -> None:
        with self._lock:
            self._known[job_id] = known
            self._known.move_to_end(job_id)
            while len(self._known) > KEPT:
                dropped, _ = self._known.popitem(last=False)
                self._reading.pop(dropped, None)


def _read(store: Store, job_id: str, before: Known | None) -> Known:
    # The event first: what happens meanwhile is looked at once more then, and never missed.
    event_id = store.last_event_id(job_id)
    standings = {} if before is None else _unchanged(store, job_id, before)

    def standing_of(store: Store, node: NodeRecord) -> Standing:
        if node.id not in standings:
            standings[node.id] = standing(store, node)
        return standings[node.id]

    progress = job_progress(store, job_id, standing_of)
    return Known(event_id, progress, progress.model_dump_json().encode(), standings)


def _unchanged(store: Store, job_id: str, before: Known) -> dict[int, Standing]:
    changed = store.changed_nodes(job_id, before.event_id)
    if None in changed:
        return {}
    return {node_id: stands for node_id, stands in before.standings.items() if node_id not in changed}


_stores: WeakKeyDictionary[Store, _Recent] = WeakKeyDictionary()
_making = threading.Lock()


def recent_progress(store: Store, job_id: str, event_id: int | None = None) -> Known:
    """The progress of a job at its newest event, or at least at this one. Raises NotFound."""
    if event_id is None:
        event_id = store.last_event_id(job_id)
    with _making:
        recent = _stores.setdefault(store, _Recent())
    return recent.of(store, job_id, event_id)
