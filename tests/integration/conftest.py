"""A real installation: a service under uvicorn and workers in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.db.store import Store
from service.settings import Settings, load_settings

REPO = Path(__file__).resolve().parents[2]
# Generous: a busy machine takes minutes to import torch in a new process.
PATIENCE = 600.0


class Cli:
    """`autombw` commands in processes of their own, on one installation."""

    def __init__(self, installation: Path) -> None:
        self.environment = {
            **os.environ,
            "AUTOMBW_SETTINGS": str(installation),
            "PYTHONPATH": str(REPO),
            "OMP_NUM_THREADS": "1",
        }
        self.folder = installation.parent
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command; it is killed when the test ends."""
        process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", *arguments],
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def job_file(self, job: dict[str, Any], name: str = "job.json") -> str:
        """A job file in the installation's folder."""
        (self.folder / name).write_text(json.dumps(job))
        return name


@pytest.fixture
def settings(installation: Path) -> Settings:
    """Of an installation of its own over the tiny models; a module with other models has its own."""
    return load_settings(installation)


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """Its API; nobody works but who the test lets work."""
    with TestClient(create_app(settings)) as client:
        yield client


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """Its database."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    store = Store(settings.database_url)
    yield store
    store.close()


@pytest.fixture(scope="session")
def tiny_settings(
    tmp_path_factory: pytest.TempPathFactory, tiny_models: Path, tiny_scorers: Path
) -> Callable[..., Settings]:
    """Makes settings over the tiny models with a data folder of their own, for the services of whole modules.

    Such services are called localhost: `testserver` is allowed to fixtures of single tests alone.
    """

    def made(**changes: Any) -> Settings:
        folders = {"models_dir": tiny_models, "scorers_dir": tiny_scorers}
        return load_settings(data_dir=tmp_path_factory.mktemp("site"), device="cpu", **folders, **changes)

    return made


@pytest.fixture
def cli(installation: Path) -> Iterator[Cli]:
    commands = Cli(installation)
    yield commands
    for process in commands.started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """The first truthy value of `true`; fails with `what` when none comes in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = true()
        if value:
            return value
        time.sleep(0.02)
    pytest.fail(f"waited {seconds} s for {what}")


def healthy(server: str) -> bool:
    """Whether a service answers there."""
    try:
        return httpx.get(f"{server}/healthz").status_code == 200
    except httpx.TransportError:
        return False
