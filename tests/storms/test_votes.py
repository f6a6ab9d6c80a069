"""Votes survive kills of everything, and the search goes on as if nobody had been killed."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.conftest import wait_until
from tests.integration.voting import submit, vote, voted
from tests.storms.conftest import MakeSite
from tests.storms.fleet import Fleet

pytestmark = pytest.mark.slow
AT_REST = ("done", "failed", "paused", "voting")


def test_votes_survive_kills_and_the_search_is_the_same(make_site: MakeSite) -> None:
    """All is killed while it renders and after every vote; the trials are those of a quiet run."""
    quiet = _voted_run(make_site("quiet").fleet, kill=False)
    assert [trial[0] for trial in quiet] == list(range(5))
    killed = _voted_run(make_site("killed").fleet, kill=True)
    assert killed == quiet, "none lost, none twice, the same scores"


def _voted_run(fleet: Fleet, *, kill: bool) -> list[Any]:
    """The trials of a job to its end, by votes that depend on the trials alone."""

    def start() -> None:
        fleet.start_api()
        fleet.start_worker()

    def kill_and_start() -> None:
        for member in fleet.members:
            if member.is_alive:
                member.kill(signal.SIGKILL)
                member.wait()
        start()

    votes = {"trials": 4, "votes": 2, "heldout": 1}
    start()
    with httpx.Client(base_url=fleet.server, timeout=60) as client:
        job_id = submit(client, voted(search={"sampler": "gp", "trials": 5, "seed": 4}, votes=votes))
        trials = f"/api/v1/jobs/{job_id}/trials"
        if kill:
            wait_until(lambda: client.get(trials).json(), "a first trial")
            kill_and_start()
        while (state := wait_until(lambda: _rests(client, job_id), "it to rest")) == "voting":
            _vote_by_number(client, job_id)
            if kill:
                kill_and_start()
        assert state == "done"
        ended = client.get(trials).json()
    return [(trial["number"], trial["weights"], trial["score"]) for trial in ended]


def _rests(client: httpx.Client, job_id: str) -> str | None:
    state = str(client.get(f"/api/v1/jobs/{job_id}").json()["state"])
    return state if state in AT_REST else None


def _vote_by_number(client: httpx.Client, job_id: str) -> None:
    """Prefer, of a trial that waits, every second time it and else the one before it."""
    base = f"/api/v1/jobs/{job_id}/nodes/01b/votes"
    state = client.get(base).json()
    if state["phase"] == "heldout":
        vote(client, base)
        return
    trials = client.get(f"/api/v1/jobs/{job_id}/trials").json()
    waiting = [trial for trial in trials if trial["state"] == "waiting"]
    number = waiting[state["there"] % len(waiting)]["number"]
    shown = [trials[number], trials[number - 1]]
    left, right = (
        Path(client.get(f"/api/v1/jobs/{job_id}/trials/{trial['id']}").json()["renders"][0]["image"]).stem
        for trial in shown
    )
    outcome = "left" if state["there"] % 2 else "right"
    key = f"vote-number-{state['total']}"
    body = {"key": key, "probe": 0, "left": left, "right": right, "outcome": outcome}
    assert client.post(base, json=body).status_code == 201
