"""Prometheus metrics of an installation, all read from SQL.

Workers are other processes, often on other machines; what they do is in the database, so one scrape of the
server tells of all of them and no worker needs a port. prometheus-client is Prometheus' own library.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from service.db.figures import Figures
from service.db.store import Store
from service.operations.reasons import reason_class

log = logging.getLogger(__name__)
KEPT_SECONDS = 5.0
"""For so long figures are told again, however often somebody asks."""
_GPU_QUERY = ("--query-gpu=index,memory.used,memory.total", "--format=csv,noheader,nounits")
_Sample = tuple[dict[str, str], float]
F = TypeVar("F", CounterMetricFamily, GaugeMetricFamily)


def registry_of(store: Store) -> CollectorRegistry:
    """The metrics of one application: the installation's, and those of this process."""
    registry = CollectorRegistry()
    registry.register(Installation(store))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


class Installation(Collector):
    """Figures of the database and of this machine's GPUs, as they were at most a few seconds ago."""

    def __init__(self, store: Store, kept_seconds: float = KEPT_SECONDS) -> None:
        self._store, self._kept_seconds = store, kept_seconds
        self._lock = threading.Lock()
        self._kept: list[Metric] = []
        self._until = 0.0

    def describe(self) -> Iterable[Metric]:
        """Nothing is asked of the database when this is registered."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The metrics; of a database that is away, that it is."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._kept = list(self._read())
                self._until = time.monotonic() + self._kept_seconds
            return self._kept

    def _read(self) -> Iterator[Metric]:
        try:
            found = self._store.figures()
        except SQLAlchemyError as error:
            log.warning("metrics: the database does not answer: %s", error)
            yield _gauge("database_up", "Whether the database answered.", [({}, 0.0)])
            return
        yield _gauge("database_up", "Whether the database answered.", [({}, 1.0)])
        yield from _of_database(found)
        yield from _of_gpus()


def _of_database(found: Figures) -> Iterator[Metric]:
    yield _gauge("jobs", "Jobs by state.", _by("state", found.jobs))
    yield _gauge("nodes", "Nodes (merges and scorings) by state.", _by("state", found.nodes))
    yield _counter("trials", "Trials by state; open ones are being worked on.", _by("state", found.trials))
    yield _counter(
        "trial_failures", "Failed trials by the class of their reason.", _classes(found.trial_failures)
    )
    stopped: dict[tuple[str, str], int] = {}
    for (state, reason), count in found.node_reasons.items():
        key = state, reason_class(reason)
        stopped[key] = stopped.get(key, 0) + count
    yield _gauge(
        "nodes_stopped",
        "Nodes that wait for a person, by the class of their reason.",
        [({"state": state, "reason": reason}, count) for (state, reason), count in stopped.items()],
    )
    yield _counter("renders", "Images rendered and judged.", [({}, found.renders)])
    yield _gauge(
        "renders_per_second", "Images per second over the last minute.", [({}, found.renders_per_second)]
    )
    yield _gauge(
        "queue_age_seconds", "How long the oldest ready node has waited.", [({}, found.queue_seconds)]
    )
    yield _gauge(
        "worker_silent_seconds",
        "Since the last sign of life of each worker.",
        [({"worker": w.owner, "device": w.device}, w.silent_seconds) for w in found.workers],
    )
    memory = [({"worker": w.owner, "device": w.device}, w) for w in found.workers if w.memory_total]
    yield _gauge(
        "worker_memory_used_bytes",
        "Memory in use on the device of each worker, as it told.",
        [(labels, w.memory_used or 0) for labels, w in memory],
    )
    yield _gauge(
        "worker_memory_total_bytes",
        "Memory of the device of each worker.",
        [(labels, w.memory_total or 0) for labels, w in memory],
    )


def _of_gpus() -> Iterator[Metric]:
    """By nvidia-smi: to ask torch would take some hundred MB of every GPU for a context."""
    told = _ask_nvidia_smi()
    if not told:
        return
    yield _gauge(
        "gpu_memory_used_bytes", "Memory in use on each GPU of this machine.", [(g, u) for g, u, _ in told]
    )
    yield _gauge(
        "gpu_memory_total_bytes", "Memory of each GPU of this machine.", [(g, t) for g, _, t in told]
    )


def _ask_nvidia_smi() -> list[tuple[dict[str, str], float, float]]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        said = subprocess.run([program, *_GPU_QUERY], capture_output=True, text=True, timeout=5, check=True)
        rows = [line.split(", ") for line in said.stdout.splitlines()]
        return [({"gpu": gpu}, float(used) * 2**20, float(total) * 2**20) for gpu, used, total in rows]
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        log.warning("metrics: nvidia-smi does not tell: %s", error)
        return []


def _by(label: str, counts: dict[str, int]) -> list[_Sample]:
    return [({label: name}, float(count)) for name, count in sorted(counts.items())]


def _classes(reasons: dict[str, int]) -> list[_Sample]:
    counts: dict[str, int] = {}
    for reason, count in reasons.items():
        counts[reason_class(reason)] = counts.get(reason_class(reason), 0) + count
    return _by("reason", counts)


def _gauge(name: str, text: str, samples: Iterable[_Sample]) -> Metric:
    return _filled(GaugeMetricFamily, name, text, list(samples))


def _counter(name: str, text: str, samples: Iterable[_Sample]) -> Metric:
    return _filled(CounterMetricFamily, name, text, list(samples))


def _filled(kind: type[F], name: str, text: str, samples: list[_Sample]) -> F:
    labels = list(samples[0][0]) if samples else []
    family = kind(f"autombw_{name}", text, labels=labels)
    for told, value in samples:
        family.add_metric([told[label] for label in labels], value)
    return family
