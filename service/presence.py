"""A worker shows that it lives: its row in SQL, with its device and its memory, written from a thread."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from sqlalchemy.exc import SQLAlchemyError

from service.db.records import WorkerSign
from service.db.store import Store

log = logging.getLogger(__name__)
SIGN_SECONDS = 5.0
DEAD_SECONDS = 60.0
"""A worker that was silent for so long is taken off the list."""


@dataclass(frozen=True)
class Memory:
    """Bytes of the device: what is in use, by anybody, and all there is; None where that is not known."""

    used: int | None
    total: int | None


class Presence:
    """Writes the row of a worker every few seconds while the `with` block runs, and removes it at its end.

    Nothing is fenced by it: whoever is on the list may be dead by now, and its lease says what it works on.
    """

    def __init__(self, store: Store, owner: str, device: str) -> None:
        self._store, self._owner, self._device = store, owner, device
        self._started = time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show, name="presence", daemon=True)

    def __enter__(self) -> Presence:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        try:
            self._store.remove_worker(self._owner)
        except SQLAlchemyError as failed:
            log.debug("the worker stays on the list for a minute: %s", failed)

    def _show(self) -> None:
        while True:
            try:
                self._store.show_worker(self._sign(), DEAD_SECONDS)
            except SQLAlchemyError as error:
                log.debug("no sign of this worker: %s", error)
            if self._stop.wait(SIGN_SECONDS):
                return

    def _sign(self) -> WorkerSign:
        memory = memory_of(self._device)
        return WorkerSign(
            owner=self._owner,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=self._device,
            device_name=device_name(self._device),
            memory_used=memory.used,
            memory_total=memory.total,
            started_at=self._started,
        )


def device_name(device: str) -> str:
    """The device as its maker calls it; of a CPU how many threads torch computes with."""
    import torch

    if device.startswith("cuda") and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(device))
    return "Apple GPU" if device == "mps" else f"CPU, {torch.get_num_threads()} threads"


def memory_of(device: str) -> Memory:
    """Memory of a GPU, or of this machine."""
    import torch

    if device.startswith("cuda") and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info(device)
        return Memory(total - free, total)
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return Memory(None, None)
    lines = dict(line.split(":", 1) for line in text.splitlines())
    total, free = (1024 * int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return Memory(total - free, total)
