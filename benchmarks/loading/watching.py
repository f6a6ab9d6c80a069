"""What the server and the worker do meanwhile: memory, shares of the cores, renders a second."""

from __future__ import annotations

import math
import random
import statistics
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx
import psutil
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from benchmarks.loading.installation import Installation
from benchmarks.loading.readers import KINDS, Target
from service.db.models import Render, Trial

SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Watched:
    """Of one stretch of time. Bytes; shares of a core; the worker's renders, and its CPU seconds for each.

    memory: of the server, a second apart. machine_cpu: of all that ran, whoever's it was. renders_per_second:
    nan where fewer than two batches were stored.
    """

    seconds: float
    memory: list[int]
    server_cpu: float
    worker_cpu: float
    machine_cpu: float
    renders_per_second: float
    cpu_per_render: float

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
        self._began = time.time()
        self._cpu = _cpu(self._server), _cpu(self._worker), _machine_cpu()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = time.time()
        seconds = ended - self._began
        now = _cpu(self._server), _cpu(self._worker), _machine_cpu()
        server, worker, machine = (after - before for after, before in zip(now, self._cpu, strict=True))
        self._stop.set()
        self._thread.join()
        pace = _renders_per_second(self._of, self._began, ended)
        self.found = Watched(
            seconds=seconds,
            memory=self._memory,
            server_cpu=server / seconds,
            worker_cpu=worker / seconds,
            machine_cpu=machine / seconds,
            renders_per_second=pace,
            cpu_per_render=worker / seconds / pace,
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


def _renders_per_second(of: Installation, began: float, ended: float) -> float:
    """From the first batch that was stored in this time to the last, so that none is cut."""
    stored = (
        select(Render.created_at, func.count())
        .where(Render.trial_id > of.last_trial, Render.created_at.between(began, ended))
        .group_by(Render.created_at)
        .order_by(Render.created_at)
    )
    with Session(of.site.store.engine) as session:
        batches = session.execute(stored).all()
    if len(batches) < 2:
        return math.nan
    (first, _), (last, _) = batches[0], batches[-1]
    return float(sum(count for _, count in batches[1:]) / (last - first))


def cost_of_reads(of: Installation, times: int) -> dict[str, dict[str, float]]:
    """Kind of read -> seconds of the server's CPU and of time that one takes, sent one after the other.

    What a machine's other programs do changes the time by far more than the CPU.
    """
    target, draw = target_of(of), random.Random(0)
    server = psutil.Process(of.api.pid)
    found: dict[str, dict[str, float]] = {}
    headers = {"Authorization": f"Bearer {of.token}"}
    with httpx.Client(base_url=of.url, headers=headers, timeout=60.0) as client:
        for name, (share, path) in KINDS.items():
            client.get(path(draw, target)).raise_for_status()
            cpu, began = _cpu(server), time.perf_counter()
            for _ in range(times):
                client.get(path(draw, target)).raise_for_status()
            found[name] = {
                "share": share / 100,
                "cpu": (_cpu(server) - cpu) / times,
                "seconds": (time.perf_counter() - began) / times,
            }
    return found


def target_of(of: Installation) -> Target:
    """What is read of an installation."""
    return Target(of.url, of.token, of.job_id, of.node, of.hashes, of.last_trial, of.last_event)


def _machine_cpu() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
