"""A job whose scorer is people: it waits for votes, goes on with them, and ends."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.db.states import TrialKind
from service.db.store import Store
from service.settings import Settings, load_settings
from service.worker import Worker
from tests.integration.voting import HUMAN, submit, vote, voted
from tests.tiny_models import job, write_models

PROBES = job()["probes"]


def work(settings: Settings, store: Store, job_id: str) -> dict[str, Any]:
    """Work until nothing more can be done without people; the states of the nodes."""
    worker = Worker(settings, store)
    while worker.run_one(job_id):
        pass
    return {node.name: node.state.value for node in store.nodes(job_id)}


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


@pytest.fixture(scope="module")
def three_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    write_models(folder, ("left", "right", "third"))
    return folder


class TestTree:
    @pytest.fixture
    def settings(self, installation: Path, three_models: Path) -> Settings:
        return load_settings(installation, models_dir=three_models)

    @pytest.mark.slow
    def test_people_vote_on_a_tree_merge_by_merge(
        self, client: TestClient, settings: Settings, store: Store
    ) -> None:
        one_probe = {**PROBES, "prompts": ["a cat"]}
        request = voted(
            leaves=["left", "right", "third"],
            probes=one_probe,
            heldout={**one_probe, "seeds": [7]},
            search={"sampler": "random", "trials": 4, "seed": 1},
            votes={"trials": 3, "votes": 2, "heldout": 1},
        )
        job_id = submit(client, request)
        seen = []
        while (states := work(settings, store, job_id)) != {"01b": "done", "02b": "done"}:
            (waits,) = client.get("/api/v1/votes").json()
            seen.append((waits["node"], waits["phase"], waits["needed"]))
            assert states == (
                {"01b": "voting", "02b": "waiting"}
                if waits["node"] == "01b"
                else {"01b": "done", "02b": "voting"}
            )
            other = {"01b": "02b", "02b": "01b"}[waits["node"]]
            base = f"/api/v1/jobs/{job_id}/nodes"
            assert client.get(f"{base}/{other}/votes/next").json()["pairs"] == []
            for _ in range(waits["needed"]):
                vote(client, f"{base}/{waits['node']}/votes")
        # Baselines first, then the fourth trial with its share of the votes, then the held-out probes.
        rounds = [("search", 2), ("search", 1), ("heldout", 1)]
        assert seen == [(node, *each) for node in ("01b", "02b") for each in rounds]

        first, last = client.get(f"/api/v1/jobs/{job_id}").json()["nodes"]
        assert (last["a"], last["b"]) in (("01b", "third"), ("third", "01b"))
        for node in (first, last):
            assert node["scores"]["search/uniform"] == node["scores"]["heldout/uniform"] == 0.0
            assert node["scores"]["search/winner"] >= 0.0
        votes = [client.get(f"/api/v1/jobs/{job_id}/nodes/{n}/votes").json()["total"] for n in ("01b", "02b")]
        assert votes == [4, 4], "no vote counts for another merge"
        made = {node.name: store.checkpoint(node.id) for node in store.nodes(job_id)}
        assert made["01b"]
        assert made["02b"]
        parents = made["02b"].recipe
        assert made["01b"].sha256 in (parents["a"]["sha256"], parents["b"]["sha256"])
