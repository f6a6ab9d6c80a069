"""Workers in processes of their own, which are started again when they die."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from service.settings import Settings

log = logging.getLogger(__name__)
RESTART_SECONDS = 1.0
STOP_SECONDS = 20.0
LOOK_SECONDS = 0.5


class WorkerProcesses:
    """So many workers; with several GPUs each takes the next one."""

    def __init__(self, config: Path | None, settings: Settings, count: int) -> None:
        self._settings = settings
        self._workers = [_WorkerProcess(config, device_of(settings, number)) for number in range(count)]

    def tell_to_stop(self) -> None:
        """Ask them to hand their nodes back and end; asking again changes nothing."""
        for worker in self._workers:
            worker.tell_to_stop()

    def wait(self) -> None:
        """Wait until they have ended. Who takes longer than STOP_SECONDS is killed, its node handed back."""
        end = time.monotonic() + STOP_SECONDS
        ended = [worker.ends_within(max(0.0, end - time.monotonic())) for worker in self._workers]
        if not all(ended):
            log.warning("%d workers did not end in %g s and were killed", ended.count(False), STOP_SECONDS)
            _hand_back(self._settings)


class _WorkerProcess:
    """A worker, started again whenever it ends by itself."""

    def __init__(self, config: Path | None, device: str) -> None:
        self._environment = os.environ | {"AUTOMBW_DEVICE": device}
        self._command = [sys.executable, "-m", "service.cli", "worker", "--parent", str(os.getpid())]
        self._command += ["--settings", str(config)] if config else []
        self._stopping = threading.Event()
        # Held while a process takes the place of another: none may be missed by who stops them.
        self._replacing = threading.Lock()
        self._process = self._start()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    def tell_to_stop(self) -> None:
        with self._replacing:
            # A worker that is told twice leaves without handing its node back.
            if not self._stopping.is_set():
                self._stopping.set()
                self._process.terminate()

    def ends_within(self, seconds: float) -> bool:
        """Whether it ended by itself; else it is killed."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        finally:
            self._thread.join()
        return True

    def _start(self) -> subprocess.Popen[Any]:
        # A session of its own: Ctrl-C reaches the worker through `tell_to_stop`, once.
        return subprocess.Popen(
            self._command, env=self._environment, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def _watch(self) -> None:
        while not self._stopping.is_set():
            code = self._process.wait()
            if self._stopping.wait(RESTART_SECONDS):
                return
            with self._replacing:
                if self._stopping.is_set():
                    return
                log.error("the worker ended with %d; starting another", code)
                self._process = self._start()


def run_until_told(processes: WorkerProcesses) -> None:
    """Leave workers at work until SIGTERM or SIGINT, then stop them."""
    from service.worker import stop_on_signals

    told = threading.Event()
    stop_on_signals(told)
    while not told.wait(LOOK_SECONDS):
        pass
    processes.tell_to_stop()
    processes.wait()


def _hand_back(settings: Settings) -> None:
    """Hand back the nodes of workers that were killed: while models load they do not listen."""
    from sqlalchemy.exc import SQLAlchemyError

    from service.db.store import Store
    from service.worker import release_dead

    store = Store(settings.database_url)
    try:
        release_dead(store)
    except SQLAlchemyError as error:
        log.warning("their nodes are free when their leases end: %s", error.args[0])
    finally:
        store.close()


def device_of(settings: Settings, number: int) -> str:
    """The device of a worker: the configured one, or with `auto` and several GPUs one after the other."""
    import torch

    if settings.device != "auto" or torch.cuda.device_count() < 2:
        return settings.device
    return f"cuda:{number % torch.cuda.device_count()}"
