"""A browser and a service with a worker that the tests of the page share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser

from service.db.store import Store
from service.settings import Settings, load_settings
from tests.e2e.browser import Visitor, chromium
from tests.integration.conftest import REPO, free_port, healthy, wait_until
from tests.tiny_models import job

HOSTILE = '<img src=x onerror="window.hacked=1"> <script>window.hacked=1</script> {{7*7}} "\'`'


@dataclass(frozen=True)
class Service:
    """A service that runs: its address, its settings and its database."""

    url: str
    settings: Settings
    store: Store

    def submit(self, **changes: Any) -> str:
        """Queue a job over HTTP; its id."""
        answer = httpx.post(f"{self.url}/api/v1/jobs", json=job(**changes), timeout=120)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def wait_for(self, job_id: str, state: str) -> None:
        """Until a job is in a state."""
        wait_until(lambda: self.store.job(job_id).state == state, f"{job_id} to be {state}", 240)


def all_pages(job_id: str) -> list[str]:
    """The path of every page, with those of a job that is done."""
    return [
        "/",
        "/new",
        f"/jobs/{job_id}",
        f"/jobs/{job_id}/nodes/01b",
        "/gallery",
        "/models",
        "/screening",
        "/vote",
        "/workers",
    ]


@pytest.fixture(scope="package")
def service(
    tmp_path_factory: pytest.TempPathFactory, tiny_models: Path, tiny_scorers: Path
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(tiny_models, folder / "models")
    file = folder / "autombw.toml"
    file.write_text(
        f'models_dir = "models"\nscorers_dir = "{tiny_scorers}"\ndata_dir = "data"\n'
        'device = "cpu"\ntrusted_proxies = ["127.0.0.1"]\n'
    )
    port = free_port()
    command = [sys.executable, "-m", "service.cli", "serve", "--settings", str(file), "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: healthy(url), "the service to listen", 240)
        settings = load_settings(file)
        store = Store(settings.database_url)
        yield Service(url, settings, store)
        store.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(180)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visitor(browser: Browser, service: Service) -> Iterator[Visitor]:
    visitor = Visitor(browser, service.url)
    yield visitor
    visitor.leave()


@pytest.fixture(scope="package")
def done(service: Service) -> str:
    """A job that ran to its end, with a prompt that tries to be a program."""
    probes = {**job()["probes"], "prompts": [HOSTILE, "a red apple"]}
    job_id = service.submit(
        name="finished", output="finished", probes=probes, search={"sampler": "random", "trials": 9}
    )
    service.wait_for(job_id, "done")
    return job_id
