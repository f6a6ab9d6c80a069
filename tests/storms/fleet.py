"""Workers and APIs in processes of their own, forked from one parent that has imported torch already.

Each is a real process that runs the real command and can be killed as such; only the seconds that a new
interpreter takes to import torch are saved. What it says goes to a file of its own.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.integration.conftest import free_port, healthy, wait_until

# Small models are slower on many threads than on one, by far where others use the machine too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

_forkserver = multiprocessing.get_context("forkserver")
# What a worker and the API import, also what they import late.
_forkserver.set_forkserver_preload(
    [
        "service.worker",
        "service.api.app",
        "service.cli",
        "uvicorn",
        "scoring.scorers.clip_score",
        "optuna._gp.prior",
        "sqlalchemy.dialects.sqlite",
        "sqlalchemy.dialects.postgresql.psycopg",
        "tests.storms.fleet",
    ]
)
RENDERED = re.compile(r"rendered probes \[([\d, ]+)\] of node")


@dataclass(frozen=True)
class Member:
    """One process of a fleet."""

    process: ForkServerProcess
    log: Path

    @property
    def pid(self) -> int:
        """Its number."""
        assert self.process.pid is not None
        return self.process.pid

    def says(self) -> str:
        """All that it has logged."""
        return self.log.read_text() if self.log.exists() else ""

    def renders(self) -> int:
        """How many renders it has finished, stored or not."""
        return sum(len(found.split(",")) for found in RENDERED.findall(self.says()))

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = 60.0) -> int:
        """Wait for its end; the exit code, or minus the signal that ended it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"process {self.pid} did not end; it said {self.says()}"
        return self.process.exitcode

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self.process.is_alive()


class Fleet:
    """The processes of one installation. installation: its settings file."""

    def __init__(self, installation: Path) -> None:
        self.installation = installation
        self.port = free_port()
        self.members: list[Member] = []
        self._logs = installation.parent / "logs"
        self._numbers = itertools.count()

    @property
    def server(self) -> str:
        """Where the API answers."""
        return f"http://127.0.0.1:{self.port}"

    def end(self) -> None:
        """Kill what still runs."""
        for member in self.members:
            if member.is_alive:
                member.kill(signal.SIGKILL)
            member.process.join()

    def start(self, *arguments: str) -> Member:
        """An `autombw` command with the installation's settings."""
        return self._start(run_command, self.installation, *arguments)

    def start_worker(self, how: Callable[[Path], Any] | None = None) -> Member:
        """A worker. how: what to run in the process instead of the plain command; a function of a module."""
        return self._start(how or run_worker, self.installation)

    def start_api(self) -> Member:
        """The API without a worker, once it answers."""
        member = self.start("serve", "--workers", "0", "--port", str(self.port))
        wait_until(lambda: healthy(self.server), "the API to answer", 60.0)
        return member

    def renders(self) -> int:
        """How many renders were finished, stored or not."""
        return sum(member.renders() for member in self.members)

    def _start(self, run: Callable[..., Any], *arguments: Any) -> Member:
        self._logs.mkdir(exist_ok=True)
        log = self._logs / f"{next(self._numbers):03}.log"
        process = _forkserver.Process(target=_run_logged, args=(log, run, arguments))
        process.start()
        member = Member(process, log)
        self.members.append(member)
        return member


def run_worker(installation: Path) -> None:
    """`autombw worker`."""
    run_command(installation, "worker")


def run_command(installation: Path, command: str, *arguments: str) -> None:
    """`autombw COMMAND …`, as the installed script runs it."""
    from service.cli import main

    sys.argv = ["autombw", command, "--settings", str(installation), *arguments]
    main()


def _run_logged(log: Path, run: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    run(*arguments)
