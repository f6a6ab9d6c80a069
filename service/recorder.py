"""Write-behind of one node's trials: a thread stores what the search produces, in order.

The next batch of images is rendered while the last one is written, so that a trial does not wait for disk
and SQL. Whoever renders calls `wait_stored` while it does, so that no batch is finished before the last one
that was handed over is stored. A batch is handed over once it is scored: a kill loses one finished batch at
most where a batch is scored before the next is rendered, and two where it is scored meanwhile (on CUDA), the
second only when scoring and storing take longer than rendering. A resumed search makes them again, the same.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

from optimizer.racing import Estimate
from optimizer.rendered import Rendered
from optimizer.search import Candidate
from service.db.records import Lease, Looks, NewRender
from service.db.states import TrialKind
from service.db.store import Store
from service.images import store_images
from service.logs import with_fields

Write = Callable[[], None]


class Recorder:
    """Stores trials one after the other: open, renders…, then finish, park or fail.

    Every method raises the error of an earlier write (LeaseLost, OSError, SQLAlchemyError) as soon as
    there is one; nothing is written after it. Leaving the `with` block writes all that waits.
    """

    def __init__(self, store: Store, lease: Lease, renders_dir: Path) -> None:
        self._store, self._lease, self._renders_dir = store, lease, renders_dir
        self._waiting: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._batch_stored = threading.Event()
        self._batch_stored.set()
        self._trial_id = -1
        self._seconds = 0.0
        self._thread = threading.Thread(target=with_fields(self._write_all), name="recorder", daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def open(self, kind: TrialKind, number: int, candidate: Candidate) -> None:
        """Begin a trial, or go on with the one that was left open."""

        def write() -> None:
            self._trial_id = self._store.open_trial(
                self._lease, kind, number, candidate.weights, candidate.choices
            ).id
            self._seconds = 0.0

        self._put(write)

    def renders(self, batch: Sequence[Rendered]) -> None:
        """Store images and their scores under the open trial."""
        self._batch_stored.clear()
        self._put(partial(self._store_renders, list(batch)))

    def wait_stored(self) -> None:
        """Wait until the last batch is stored."""
        self._wait(self._batch_stored)

    def finish(self, score: float, seconds: float, timings: Mapping[str, float], looks: Looks) -> None:
        """End the open trial with its score. `store`, the time its writes took, is added to the timings."""

        def write() -> None:
            full = {**timings, "store": self._seconds}
            self._store.finish_trial(self._lease, self._trial_id, score, seconds, full, looks=looks)

        self._put(write)

    def park(self, seconds: float, timings: Mapping[str, float]) -> None:
        """All of the open trial is rendered; its score waits for votes."""

        def write() -> None:
            full = {**timings, "store": self._seconds}
            self._store.park_trial(self._lease, self._trial_id, seconds, full)

        self._put(write)

    def stop(self, found: Estimate, reason: str, seconds: float, timings: Mapping[str, float]) -> None:
        """End the open trial, which fell behind, with what it is expected to score."""

        def write() -> None:
            full = {**timings, "store": self._seconds}
            self._store.stop_trial(self._lease, self._trial_id, seconds, full, found=found, reason=reason)

        self._put(write)

    def fail(self, reason: str, seconds: float, timings: Mapping[str, float]) -> int:
        """End the open trial without a score, once all is written. Returns how many failed in a row."""
        in_row: list[int] = []
        done = threading.Event()

        def write() -> None:
            full = {**timings, "store": self._seconds}
            in_row.append(self._store.fail_trial(self._lease, self._trial_id, reason, seconds, full))
            done.set()

        self._put(write)
        self._wait(done)
        return in_row[0]

    def flush(self) -> None:
        """Wait until all is written."""
        done = threading.Event()
        self._put(done.set)
        self._wait(done)

    def _put(self, write: Write) -> None:
        self._raise()
        self._waiting.put(write)

    def _wait(self, done: threading.Event) -> None:
        while not done.wait(0.05):
            self._raise()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _write_all(self) -> None:
        while (write := self._waiting.get()) is not None:
            if self._error is None:  # nothing may be written after what could not be
                self._attempt(write)

    def _attempt(self, write: Write) -> None:
        started = time.monotonic()
        try:
            write()
        except Exception as error:
            self._error = error
        self._seconds += time.monotonic() - started

    def _store_renders(self, batch: Sequence[Rendered]) -> None:
        hashes = store_images(self._renders_dir, [rendered.image for rendered in batch])
        renders = [
            NewRender(rendered.probe, sha256, rendered.seconds, rendered.scores, rendered.slopes)
            for rendered, sha256 in zip(batch, hashes, strict=True)
        ]
        self._store.add_renders(self._lease, self._trial_id, renders)
        self._batch_stored.set()
