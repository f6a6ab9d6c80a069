"""What the server and the worker do meanwhile: memory, shares of the cores, trials a second."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from benchmarks.loading.installation import Installation
from service.db.models import Trial

SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Watched:
    """Of one stretch of time. Bytes; shares of a core; the worker's trials in it, and its CPU seconds for each.

    memory: of the server, a second apart.
    """

    seconds: float
    memory: list[int]
    server_cpu: float
    worker_cpu: float
    trials_per_second: float
    cpu_per_trial: float

    def growth_per_minute(self) -> float:
        """Bytes that the server grows by in a minute, in the second half of the time.

        The slope of a line fitted to it: in the first half caches fill, and memory that is freed in between
        goes up and down.
        """
        half = self.memory[len(self.memory) // 2 :]
        if len(half) < 3:
            return 0.0
        slope = statistics.linear_regression(range(len(half)), half).slope
        return float(slope / SAMPLE_SECONDS * 60)


class Watch:
    """Watches an installation for as long as its `with` block lasts; `found` is there afterwards."""

    found: Watched

    def __init__(self, of: Installation) -> None:
        self._of = of
        self._server, self._worker = psutil.Process(of.api.pid), psutil.Process(of.worker.pid)
        self._memory: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._began, self._trials = time.time(), trials_ended(self._of)
        self._cpu = _cpu(self._server), _cpu(self._worker)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds, trials = time.time() - self._began, trials_ended(self._of) - self._trials
        server, worker = (_cpu(self._server) - self._cpu[0], _cpu(self._worker) - self._cpu[1])
        self._stop.set()
        self._thread.join()
        self.found = Watched(
            seconds=seconds,
            memory=self._memory,
            server_cpu=server / seconds,
            worker_cpu=worker / seconds,
            trials_per_second=trials / seconds,
            cpu_per_trial=worker / max(trials, 1),
        )

    def _sample(self) -> None:
        while not self._stop.is_set():
            self._memory.append(self._server.memory_info().rss)
            self._stop.wait(SAMPLE_SECONDS)


def trials_ended(of: Installation) -> int:
    """How many trials of the job have ended by now."""
    with Session(of.site.store.engine) as session:
        ended = select(func.count()).select_from(Trial).where(Trial.id > of.last_trial, Trial.ended_at > 0)
        return session.scalar(ended) or 0


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
