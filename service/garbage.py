"""Short pauses of the garbage collector, in a server that holds the pages of many browsers.

A full collection looks at every object of the process, and nothing else runs meanwhile: a second and more for
the pages of two hundred browsers, several times a minute. Most of what it looks at lives for as long as it
did the last time. So what has survived a long collection is frozen (gc.freeze), and the next ones look only
at what came afterwards. What is frozen is looked at again, since it may have died, when there is twice as
much of it as the last time, and after THAW_SECONDS. Measured by `python -m benchmarks.load` (docs/load.md).
"""

from __future__ import annotations

import gc
import time
from typing import Any

LONG_SECONDS = 0.1
THAW_SECONDS = 600.0


class ShortPauses:
    """A callback of the collector, in force from `begin` to `end`."""

    def __init__(self) -> None:
        self._began = 0.0
        self._frozen = self._floor = self._count_above = 0
        self._thaw_at = 0.0
        self._is_thawed = False

    def begin(self) -> None:
        """Freeze what is there by now: modules, classes, and what else lives until the process ends."""
        gc.collect()
        self._freeze()
        gc.callbacks.append(self)

    def end(self) -> None:
        """Leave the collector as it was."""
        gc.callbacks.remove(self)
        gc.unfreeze()

    def __call__(self, phase: str, info: dict[str, Any]) -> None:
        if info["generation"] < 2:
            return
        if phase == "start":
            self._began = time.perf_counter()
        elif time.perf_counter() - self._began > LONG_SECONDS:
            self._after_a_long_one()
        elif not self._is_thawed and time.monotonic() > self._thaw_at:
            self._thaw()

    def _after_a_long_one(self) -> None:
        if self._is_thawed:
            self._freeze()
            return
        # What was frozen and died since is in this number too. Counting all of it takes as long as a pause.
        self._frozen += len(gc.get_objects(generation=2))
        gc.freeze()
        if self._frozen > self._count_above:
            self._frozen = gc.get_freeze_count()
            self._count_above = max(2 * self._floor, self._frozen + self._floor // 4)
            if self._frozen > 2 * self._floor:
                self._thaw()

    def _freeze(self) -> None:
        gc.freeze()
        self._frozen = self._floor = gc.get_freeze_count()
        self._count_above = 2 * self._floor
        self._is_thawed = False
        self._thaw_at = time.monotonic() + THAW_SECONDS

    def _thaw(self) -> None:
        # The next full collection looks at all of it.
        gc.unfreeze()
        self._is_thawed = True
