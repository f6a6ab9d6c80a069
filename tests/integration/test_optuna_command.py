"""`autombw optuna`: optuna-dashboard as a process, asked over HTTP, while the search goes on."""

from __future__ import annotations

import re
import signal
import socket

import httpx
import pytest

from service.db.store import Store
from service.settings import load_settings
from tests.integration.conftest import PATIENCE, Cli, wait_until
from tests.tiny_models import job


@pytest.mark.slow
def test_the_dashboard_lists_the_study_and_follows_it(cli: Cli) -> None:
    first = cli.run("run", cli.job_file(job(search={"sampler": "random", "trials": 2, "seed": 5})), "--json")
    assert first.returncode == 0, first.stderr
    store = Store(load_settings(cli.folder / "autombw.toml").database_url)
    (found,) = store.jobs()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = cli.run("optuna", found.id, "--port", str(taken.getsockname()[1]))
    assert refused.returncode == 2
    assert "give another --port" in refused.stderr

    shown = cli.start("optuna", found.id, "01b", "--port", "0")
    assert shown.stdout is not None
    address = re.search(r"study (\S+) on (http://127\.0\.0\.1:\d+)/dashboard", shown.stdout.readline())
    assert address is not None
    assert address[1] == f"{found.id}/01b"
    with httpx.Client(base_url=address[2], timeout=30.0) as browser:
        (study,) = browser.get("/api/studies").json()["study_summaries"]
        assert study["study_name"] == f"{found.id}/01b"
        told = f"/api/studies/{study['study_id']}"
        assert len(browser.get(told).json()["trials"]) == 2

        page = browser.get("/dashboard")
        assert page.status_code == 200
        assert "default-src 'self'" in page.headers["content-security-policy"], "it asks no other host"
        assert browser.get("/static/bundle.js").status_code == 200

        store.extend_node(found.id, "01b", 2)
        cli.start("worker")
        wait_until(lambda: len(browser.get(told).json()["trials"]) == 4, "the new trials", PATIENCE)
    shown.send_signal(signal.SIGTERM)
    assert shown.wait(30) == 0
    assert "Traceback" not in shown.communicate()[1]
    store.close()
