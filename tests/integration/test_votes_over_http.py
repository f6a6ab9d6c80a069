"""A job whose scorer is people: it waits for votes, goes on with them, and ends."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from service.db.states import TrialKind
from service.db.store import Store
from service.settings import Settings
from service.worker import Worker
from tests.integration.conftest import Cli, free_port, healthy, wait_until
from tests.tiny_models import job

HUMAN = {"scorer": "human"}
AT_REST = ("done", "failed", "paused", "voting")


def voted(**changes: Any) -> dict[str, Any]:
    """A job of five trials in rounds of four, which need three votes each."""
    votes = {"trials": 4, "votes": 3, "heldout": 2}
    search = {"sampler": "random", "trials": 5, "seed": 1}
    return job(**{"scorers": [HUMAN], "votes": votes, "search": search, "watch": [], **changes})


def submit(client: TestClient | httpx.Client, request: dict[str, Any]) -> str:
    response = client.post("/api/v1/jobs", json=request)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def work(settings: Settings, store: Store, job_id: str) -> dict[str, Any]:
    """Work until nothing more can be done without people; the states of the nodes."""
    worker = Worker(settings, store)
    while worker.run_one(job_id):
        pass
    return {node.name: node.state.value for node in store.nodes(job_id)}


def vote(client: TestClient | httpx.Client, base: str, *, voter: str = "anna") -> dict[str, Any]:
    """Compare the next pair: the image whose hash comes first is the better one."""
    (pair,) = client.get(f"{base}/next", params={"voter": voter}).json()["pairs"]
    body = {name: pair[name] for name in ("key", "probe", "left", "right")}
    outcome = "left" if pair["left"] < pair["right"] else "right"
    response = client.post(base, json={**body, "outcome": outcome, "voter": voter})
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    return found


def test_a_job_whose_only_scorer_is_people_ends_by_their_votes(
    client: TestClient, settings: Settings, store: Store
) -> None:
    job_id = submit(client, voted())
    base = f"/api/v1/jobs/{job_id}/nodes/01b/votes"
    assert client.get(f"{base}/next").json()["pairs"] == [], "nothing is rendered yet"

    assert work(settings, store, job_id) == {"01b": "voting"}
    (node,) = client.get(f"/api/v1/jobs/{job_id}").json()["nodes"]
    assert (node["trials_done"], node["trials_waiting"], node["votes"]["needed"]) == (0, 4, 3)
    assert "wait for 3 votes: open /vote" in node["reason"]
    (waits,) = client.get("/api/v1/votes").json()
    assert (waits["job"], waits["node"], waits["needed"], waits["there"]) == (job_id, "01b", 3, 0)

    assert [vote(client, base)["there"] for _ in range(3)] == [1, 2, 3]
    assert client.get("/api/v1/votes").json() == []
    assert work(settings, store, job_id) == {"01b": "voting"}, "the fifth trial needs its share"
    state = client.get(base).json()
    assert (state["needed"], state["there"], state["total"], state["trials_waiting"]) == (1, 0, 3, 1)
    vote(client, base, voter="ben")

    assert work(settings, store, job_id) == {"01b": "voting"}, "the held-out probes"
    state = client.get(base).json()
    assert (state["phase"], state["needed"], state["trials_waiting"]) == ("heldout", 2, 4)
    vote(client, base)
    vote(client, base)
    assert work(settings, store, job_id) == {"01b": "done"}

    progress = client.get(f"/api/v1/jobs/{job_id}").json()
    (node,) = progress["nodes"]
    assert node["scores"]["search/uniform"] == node["scores"]["heldout/uniform"] == 0.0
    assert node["scores"]["search/winner"] >= 0.0
    assert all(math.isfinite(score) for score in node["scores"].values())
    recipe = client.get(f"/api/v1/jobs/{job_id}/recipe").json()
    assert recipe["scores"]["search/winner"] == node["scores"]["search/winner"]
    best = store.best_trial(store.nodes(job_id)[0].id)
    assert best is not None
    assert {r.scores["human"] for r in store.renders(best.id)} == {best.score}


@pytest.mark.slow
def test_people_and_an_automatic_scorer_are_weighed(
    client: TestClient, settings: Settings, store: Store
) -> None:
    scorers = [HUMAN | {"weight": 3}, {"scorer": "clip", "model": "reward"}]
    request = voted(scorers=scorers, heldout=None, search={"sampler": "gp", "trials": 4, "seed": 1})
    job_id = submit(client, request)
    assert work(settings, store, job_id) == {"01b": "voting", "reference": "done"}
    base = f"/api/v1/jobs/{job_id}/nodes/01b/votes"
    for _ in range(3):
        vote(client, base)
    assert work(settings, store, job_id) == {"01b": "done", "reference": "done"}
    node, reference = store.nodes(job_id)
    scale = store.find_trial(reference.id, TrialKind.SEARCH, 0)
    assert scale is not None
    numbers = [render.scores["clip"] for render in store.renders(scale.id)]
    mean = sum(numbers) / len(numbers)
    spread = math.sqrt(sum((x - mean) ** 2 for x in numbers) / (len(numbers) - 1))
    for trial in store.trials(node.id):
        renders = store.renders(trial.id)
        clip = sum((r.scores["clip"] - mean) / spread for r in renders) / len(renders)
        assert trial.score == pytest.approx((3 * renders[0].scores["human"] + clip) / 4)
    assert client.post(f"/api/v1/jobs/{job_id}/retally", json={"weights": {"clip": 0}}).status_code == 200
    assert client.get(f"/api/v1/jobs/{job_id}/report").status_code == 200


def test_a_pair_says_nothing_of_its_trials_and_takes_one_vote(
    client: TestClient, settings: Settings, store: Store
) -> None:
    votes = {"trials": 2, "votes": 3, "heldout": 1}
    job_id = submit(client, voted(votes=votes, search={"sampler": "random", "trials": 2}))
    work(settings, store, job_id)
    base = f"/api/v1/jobs/{job_id}/nodes/01b/votes"
    (pair,) = client.get(f"{base}/next", params={"count": 3}).json()["pairs"]
    assert set(pair) == {"key", "probe", "prompt", "left", "right", "left_image", "right_image"}
    assert client.get(pair["left_image"]).headers["content-type"] == "image/png"

    body = {name: pair[name] for name in ("key", "probe", "left", "right")} | {"outcome": "tie"}
    assert [client.post(base, json=body).json()["there"] for _ in range(2)] == [1, 1], "a double click"
    assert client.delete(f"{base}/{pair['key']}").json()["there"] == 0, "a change of mind"
    assert client.delete(f"{base}/{pair['key']}").status_code == 404
    unseen = client.post(base, json={**body, "key": "another-key", "left": "0" * 64})
    assert unseen.status_code == 409
    assert "ask for the next pair" in unseen.json()["detail"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bracket": {"seeding": "score"}}, "can't be ranked by their votes"),
        ({"tally": "geometric"}, "takes no scores below 0"),
        (
            {"scorers": [{"scorer": "clip", "model": "reward"}], "watch": [HUMAN]},
            "watch: 'human' judges by votes",
        ),
        ({"votes": {"trials": 1}}, "votes.trials"),
    ],
)
def test_what_people_cannot_judge_is_refused(client: TestClient, changes: dict[str, Any], said: str) -> None:
    response = client.post("/api/v1/jobs", json=voted(**changes))
    assert response.status_code == 422
    assert said in response.json()["detail"]


@pytest.mark.slow
def test_votes_survive_kills_and_the_search_is_the_same(cli: Cli) -> None:
    """The service is killed while it renders and after every vote; the trials are those of a quiet run."""
    quiet = _voted_run(cli, "quiet", kill=False)
    assert [trial[0] for trial in quiet] == list(range(5))
    assert _voted_run(cli, "killed", kill=True) == quiet, "none lost, none twice, the same scores"


def _voted_run(cli: Cli, output: str, *, kill: bool) -> list[Any]:
    """The trials of a job to its end, by votes that depend on the trials alone."""
    port = free_port()
    server = f"http://127.0.0.1:{port}"

    def start() -> Any:
        process = cli.start("serve", "--port", str(port))
        wait_until(lambda: healthy(server), "the service")
        return process

    def killed_and_started(process: Any) -> Any:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return start()

    votes = {"trials": 4, "votes": 2, "heldout": 1}
    request = voted(output=output, search={"sampler": "gp", "trials": 5, "seed": 4}, votes=votes)
    process = start()
    with httpx.Client(base_url=server, timeout=60) as client:
        job_id = submit(client, request)
        trials = f"/api/v1/jobs/{job_id}/trials"
        if kill:
            wait_until(lambda: client.get(trials).json(), "a first trial")
            process = killed_and_started(process)
        while (state := wait_until(lambda: _rests(client, job_id), "it to rest")) == "voting":
            _vote_by_number(client, job_id)
            if kill:
                process = killed_and_started(process)
        assert state == "done"
        ended = client.get(trials).json()
    process.send_signal(signal.SIGTERM)
    process.communicate()
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
