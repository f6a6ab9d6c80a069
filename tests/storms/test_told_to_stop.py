"""SIGTERM, pause and cancel while a long render is in progress, and trials that were cut short."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api.serving import LEAVE_SECONDS
from service.db.states import JobState, NodeState, TrialState
from service.processes import is_alive
from tests.storms.fleet import Member
from tests.storms.site import Site
from tests.tiny_models import REPO

pytestmark = pytest.mark.slow

# Minutes of rendering in short steps.
LONG = {
    "prompt": "a cat",
    "seed": 1,
    "sampler": "Euler",
    "steps": 1000,
    "cfg_scale": 1.0,
    "width": 256,
    "height": 256,
}
HANDED_BACK_SECONDS = 10.0
STOPPED_SECONDS = 6.0


def start_long_render(site: Site, **changes: Any) -> tuple[str, Member]:
    """A job whose first render takes minutes, and the worker that is in the middle of it."""
    job_id = site.queue(probes=[LONG | changes], heldout=None)
    worker = site.fleet.start_worker()
    site.wait(lambda: site.store.trials(site.node(job_id).id), "the first trial to be opened")
    time.sleep(1.0)
    assert worker.renders() == 0
    return job_id, worker


def test_a_worker_told_to_stop_in_a_long_render_hands_its_node_back(site: Site) -> None:
    job_id, worker = start_long_render(site)
    opened = site.store.trials(site.node(job_id).id)
    told = time.monotonic()
    worker.kill(signal.SIGTERM)
    assert worker.wait() == 0
    assert time.monotonic() - told < HANDED_BACK_SECONDS
    node = site.node(job_id)
    assert (node.state, node.lease_owner, node.reason) == (NodeState.READY, None, None)
    assert site.store.trials(node.id) == opened
    assert [trial.state for trial in opened] == [TrialState.OPEN]


def test_a_worker_told_twice_leaves_at_once(site: Site) -> None:
    job_id, worker = start_long_render(site, width=768, height=768)
    worker.kill(signal.SIGTERM)
    site.wait(lambda: not catches(worker, signal.SIGTERM), "the first signal to be handled", 30.0)
    worker.kill(signal.SIGTERM)
    told = time.monotonic()
    assert worker.wait() == -signal.SIGTERM
    assert time.monotonic() - told < 1.0
    assert site.node(job_id).state is NodeState.RUNNING, "nothing was handed back"


def catches(member: Member, number: int) -> bool:
    """Whether a process handles a signal itself, by what the system knows of it."""
    (line,) = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{member.pid}/status").read_text())
    return bool(int(line, 16) >> (number - 1) & 1)


def test_pause_and_cancel_over_http_stop_a_render(site: Site) -> None:
    job_id, worker = start_long_render(site)
    site.fleet.start_api()
    opened = site.store.trials(site.node(job_id).id)

    assert stopped_by(site, worker, job_id, "pause") == "paused"
    assert site.store.trials(site.node(job_id).id) == opened
    assert httpx.post(f"{site.fleet.server}/api/v1/jobs/{job_id}/resume").json()["state"] == "queued"
    site.wait(lambda: site.node(job_id).state is NodeState.RUNNING, "the worker to go on")
    time.sleep(3.0)

    assert stopped_by(site, worker, job_id, "cancel") == "cancelled"
    assert [trial.state for trial in site.store.trials(site.node(job_id).id)] == [TrialState.CANCELLED]
    assert worker.renders() == 0


def stopped_by(site: Site, worker: Member, job_id: str, what: str) -> str:
    """Do this to a job over HTTP; its state once the worker has dropped the node, which must be soon."""
    dropped = worker.says().count("dropped node")
    answer = httpx.post(f"{site.fleet.server}/api/v1/jobs/{job_id}/{what}", timeout=30.0)
    site.wait(lambda: worker.says().count("dropped node") > dropped, f"{what} to stop it", STOPPED_SECONDS)
    return str(answer.json()["state"])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_trial_goes_on_at_the_probe_after_those_it_has(site: Site, number: signal.Signals) -> None:
    """The fourth of six probes is long: the worker is killed while it is rendered."""
    short, long = LONG | {"steps": 2, "width": 32, "height": 32}, LONG | {"steps": 40}
    probes = [
        short,
        short | {"seed": 2},
        short | {"seed": 3},
        long,
        short | {"steps": 3},
        short | {"steps": 4},
    ]
    job_id = site.queue(probes=probes, heldout=None, search={"trials": 1})
    worker = site.fleet.start_worker()
    site.wait_renders(job_id, 3)
    worker.kill(number)
    worker.wait()
    (cut,) = site.store.trials(site.node(job_id).id)
    kept = site.store.renders(cut.id)
    assert [render.probe for render in kept] == [0, 1, 2]

    second = site.fleet.start_worker()
    assert site.wait_rest(job_id) is JobState.DONE
    (whole,) = site.store.trials(site.node(job_id).id)
    assert (whole.id, whole.weights) == (cut.id, cut.weights)
    assert [render.probe for render in site.store.renders(whole.id)] == list(range(len(probes)))
    assert site.store.renders(whole.id)[:3] == kept
    assert (worker.renders(), second.renders()) == (3, 3)


def test_serve_restarts_a_worker_that_died(site: Site) -> None:
    """A real `autombw serve`: its worker is killed, then itself told to stop."""
    command = [sys.executable, "-m", "service.cli", "serve", "--settings", str(site.fleet.installation)]
    with subprocess.Popen([*command, "--port", str(site.fleet.port)], cwd=REPO) as serve:
        try:
            job_id = site.queue(search={"sampler": "random", "trials": 500})
            first = site.wait(lambda: site.node(job_id).lease_owner, "a worker")
            os.kill(pid_of(first), signal.SIGKILL)
            second = site.wait(lambda: other_than(first, site.node(job_id).lease_owner), "another worker")
            site.wait_renders(job_id, 2)
            told = time.monotonic()
            serve.terminate()
            assert serve.wait(30.0) == 0
            assert time.monotonic() - told < LEAVE_SECONDS
        finally:
            serve.kill()
    assert site.node(job_id).state is NodeState.READY
    assert not is_alive(pid_of(second))


def pid_of(owner: str) -> int:
    """The process of a lease's owner."""
    return int(owner.split(":")[1])


def other_than(first: str, owner: str | None) -> str | None:
    """The owner, unless it is the first one."""
    return None if owner == first else owner
