"""Jobs of trees over HTTP: submitted, worked on, paused, extended, cloned, and given more leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from optimizer.checkpoints import sha256_of
from service.db.states import NodeState, TrialKind
from service.db.store import Store
from service.settings import Settings, load_settings
from service.worker import Worker
from tests.tiny_models import job, write_models

LEAVES = ["ann", "bob", "cat", "dan", "eve"]


@pytest.fixture(scope="module")
def five_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("five")
    write_models(folder, tuple(LEAVES))
    return folder


@pytest.fixture
def settings(installation: Path, five_models: Path) -> Settings:
    return load_settings(installation, models_dir=five_models)


def tree(leaves: list[str], **changes: Any) -> dict[str, Any]:
    one_probe = {"sampler": "Euler", "steps": 1, "cfg_scale": 1.0, "width": 32, "height": 32}
    probes = {"defaults": one_probe, "prompts": ["a cat"], "seeds": [1]}
    search = {"sampler": "random", "trials": 4, "seed": 2}
    given = {"leaves": leaves, "probes": probes, "heldout": None, "search": search, **changes}
    return job(**given)


def submit(client: TestClient, leaves: list[str], **changes: Any) -> str:
    response = client.post("/api/v1/jobs", json=tree(leaves, **changes))
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def nodes_of(client: TestClient, job_id: str) -> dict[str, dict[str, Any]]:
    return {node["name"]: node for node in client.get(f"/api/v1/jobs/{job_id}").json()["nodes"]}


def refused(response: Any, status: int, words: str) -> None:
    assert response.status_code == status, response.text
    assert words in response.json()["detail"]


def test_five_leaves_become_one_model(client: TestClient, settings: Settings, store: Store) -> None:
    job_id = submit(client, LEAVES)
    before = nodes_of(client, job_id)
    assert [(n["a"], n["b"], n["state"]) for n in before.values()] == [
        ("ann", "bob", "ready"),
        ("cat", "dan", "ready"),
        ("eve", "best(01b,02b)", "waiting"),
        ("02b", "03b", "waiting"),
        (None, None, "ready"),
    ]
    Worker(settings, store).run_job(job_id)
    after = client.get(f"/api/v1/jobs/{job_id}").json()
    assert after["state"] == "done", after
    nodes = {node["name"]: node for node in after["nodes"]}
    one, two = nodes["01b"]["best"]["score"], nodes["02b"]["best"]["score"]
    picked, other = ("01b", "02b") if one >= two else ("02b", "01b")
    assert (nodes["03b"]["a"], nodes["03b"]["b"]) == ("eve", picked)
    assert (nodes["04b"]["a"], nodes["04b"]["b"]) == (other, "03b")
    assert [name for name, node in nodes.items() if node["final"]] == ["04b"]

    result = after["result"]
    assert set(result["leaves"]) == set(LEAVES)
    rivals = [scores["search"] for scores in (*result["leaves"].values(), result["average"])]
    assert result["gain"] == result["winner"]["search"] - max(rivals)

    made = Path(nodes["04b"]["checkpoint"]["path"])
    assert made == settings.outputs_dir / "merged.safetensors"
    assert sha256_of(made) == nodes["04b"]["checkpoint"]["sha256"]
    recipe = client.get(f"/api/v1/jobs/{job_id}/recipe").json()
    assert recipe["b"]["name"] == "merged-03b"
    models = recipe["b"]["metadata"]["sd_merge_models"]
    assert '"name": "eve"' in models, "the lineage goes down to the leaves"


def test_one_node_may_differ_from_its_job(client: TestClient, settings: Settings, store: Store) -> None:
    own = {"02b": {"search": {"trials": 6, "sampler": "tpe"}}}
    job_id = submit(client, LEAVES[:3], nodes=own, bracket={"kind": "sequential"}, average=False)
    Worker(settings, store).run_job(job_id)
    nodes = nodes_of(client, job_id)
    assert [(n["a"], n["b"], n["trials_done"]) for n in nodes.values()] == [
        ("ann", "bob", 4),
        ("01b", "cat", 6),
    ]


def test_the_table_of_a_bracket_can_be_given(client: TestClient, settings: Settings, store: Store) -> None:
    table = [{"o": "top", "a": "dan", "b": "low"}, {"o": "low", "a": "ann", "b": "eve"}]
    bracket = {"kind": "explicit", "table": table}
    preview = client.post("/api/v1/jobs/bracket", json=tree([], bracket=bracket))
    assert [(row["o"], row["level"]) for row in preview.json()] == [("low", 1), ("top", 2)]
    job_id = submit(client, [], bracket=bracket, search={"sampler": "random", "trials": 3}, average=False)
    Worker(settings, store).run_job(job_id)
    assert nodes_of(client, job_id)["top"]["state"] == "done"


def test_leaves_are_ranked_by_their_scores_first(
    client: TestClient, settings: Settings, store: Store
) -> None:
    job_id = submit(client, LEAVES[:3], bracket={"seeding": "score"}, average=False)
    worker = Worker(settings, store)
    before = nodes_of(client, job_id)
    assert (before["01b"]["a"], before["01b"]["b"], before["01b"]["state"]) == ("#1", "#2", "waiting")
    for _ in range(3):
        worker.run_one()
    nodes = nodes_of(client, job_id)
    scores = {n["a"]: n["scores"]["search/winner"] for n in nodes.values() if n["kind"] == "screen"}
    best, second, third = sorted(scores, key=lambda leaf: -scores[leaf])
    assert (nodes["01b"]["a"], nodes["01b"]["b"]) == (best, second)
    worker.run_job(job_id)
    assert nodes_of(client, job_id)["02b"]["a"] == third, "the odd one out waits"


def test_close_models_become_neighbours(client: TestClient) -> None:
    # Every tiny model is one random step further from the first: neighbours in the name are the closest.
    job_id = submit(client, ["ann", "eve", "bob", "dan"], bracket={"seeding": "distance"})
    nodes = nodes_of(client, job_id)
    pairs = {frozenset((nodes[name]["a"], nodes[name]["b"])) for name in ("01b", "02b")}
    assert pairs == {frozenset(("ann", "bob")), frozenset(("dan", "eve"))}


def test_a_paused_job_goes_on_where_it_was(client: TestClient, settings: Settings, store: Store) -> None:
    job_id = submit(client, LEAVES[:3])
    worker = Worker(settings, store)
    worker.run_one()
    paused = client.post(f"/api/v1/jobs/{job_id}/pause").json()
    assert (paused["state"], paused["nodes"][0]["state"]) == ("paused", "done")
    assert not worker.run_one(), "nobody works on a paused job"
    refused(client.post(f"/api/v1/jobs/{job_id}/pause"), 409, "nothing to pause")
    assert client.post(f"/api/v1/jobs/{job_id}/resume").json()["state"] == "queued"
    refused(client.post(f"/api/v1/jobs/{job_id}/resume"), 409, "nothing of it is paused")
    worker.run_job(job_id)
    assert client.get(f"/api/v1/jobs/{job_id}").json()["state"] == "done"
    refused(client.post(f"/api/v1/jobs/{job_id}/pause"), 409, "is done: there is nothing to pause")


def test_a_finished_node_is_searched_further(client: TestClient, settings: Settings, store: Store) -> None:
    job_id = submit(client, LEAVES[:3], heldout=tree([])["probes"])
    worker = Worker(settings, store)
    worker.run_job(job_id)
    first = nodes_of(client, job_id)["02b"]
    extended = client.post(f"/api/v1/jobs/{job_id}/nodes/02b/extend", json={"trials": 5}).json()
    assert extended["state"] == "queued"
    worker.run_job(job_id)
    node = nodes_of(client, job_id)["02b"]
    assert (node["state"], node["trials_done"]) == ("done", 9)
    assert node["best"]["score"] >= first["best"]["score"]
    winners = store.trials(store.nodes(job_id)[1].id, kinds=[TrialKind.HELDOUT_WINNER])
    assert node["best"]["number"] in [trial.number for trial in winners]
    assert sha256_of(Path(node["checkpoint"]["path"])) == node["checkpoint"]["sha256"]

    began = client.post(f"/api/v1/jobs/{job_id}/nodes/01b/extend", json={"trials": 5})
    refused(began, 409, "02b began with its output; extend that one")
    refused(client.post(f"/api/v1/jobs/{job_id}/nodes/09b/extend", json={"trials": 5}), 404, "no node '09b'")
    refused(client.post(f"/api/v1/jobs/{job_id}/nodes/02b/extend", json={"trials": 0}), 422, "trials")


def test_what_waits_for_an_extended_node_waits_again(
    client: TestClient, settings: Settings, store: Store
) -> None:
    job_id = submit(client, LEAVES[:3], average=False)
    Worker(settings, store).run_one()
    assert nodes_of(client, job_id)["02b"]["state"] == "ready"
    client.post(f"/api/v1/jobs/{job_id}/nodes/01b/extend", json={"trials": 1})
    assert [node["state"] for node in nodes_of(client, job_id).values()] == ["ready", "waiting"]


def test_a_cancelled_job_is_not_extended(client: TestClient, settings: Settings, store: Store) -> None:
    job_id = submit(client, LEAVES[:3])
    Worker(settings, store).run_one()
    client.post(f"/api/v1/jobs/{job_id}/cancel")
    refused(client.post(f"/api/v1/jobs/{job_id}/nodes/01b/extend", json={"trials": 1}), 409, "was cancelled")


def test_a_job_is_cloned_with_changes(client: TestClient) -> None:
    job_id = submit(client, LEAVES[:4], nodes={"01b": {"search": {"trials": 7}}})
    patch = {"search": {"trials": 9}, "nodes": {"01b": None}, "leaves": LEAVES[:3]}
    cloned = client.post(f"/api/v1/jobs/{job_id}/clone", json=patch)
    assert cloned.status_code == 201, cloned.text
    nodes = {node["name"]: node for node in cloned.json()["nodes"]}
    assert [nodes[name]["trials_planned"] for name in ("01b", "02b")] == [9, 9]
    assert nodes["02b"]["output"] == "merged-2"
    refused(client.post(f"/api/v1/jobs/{job_id}/clone", json={"trails": 1}), 422, "clone: trails")


def test_leaves_are_added_while_the_bracket_allows_it(
    client: TestClient, settings: Settings, store: Store
) -> None:
    job_id = submit(client, LEAVES[:3])
    worker = Worker(settings, store)
    worker.run_one()
    added = client.post(f"/api/v1/jobs/{job_id}/leaves", json={"leaves": ["dan"]})
    assert added.status_code == 200, added.text
    nodes = nodes_of(client, job_id)
    merges = {name: (n["a"], n["b"]) for name, n in nodes.items() if n["kind"] == "merge"}
    assert merges["01b"] == ("ann", "bob")
    assert ("cat", "dan") in merges.values()
    assert len(merges) == 3
    worker.run_job(job_id)
    done = client.get(f"/api/v1/jobs/{job_id}").json()
    assert done["state"] == "done"
    assert set(done["result"]["leaves"]) == set(LEAVES[:4])
    refused(client.post(f"/api/v1/jobs/{job_id}/leaves", json={"leaves": ["eve"]}), 409, "clone it")
    refused(client.post(f"/api/v1/jobs/{job_id}/leaves", json={"leaves": ["zoe"]}), 422, "no model 'zoe'")


def test_a_leaf_that_a_begun_merge_leaves_no_place_for_is_refused(
    client: TestClient, settings: Settings, store: Store
) -> None:
    job_id = submit(client, LEAVES[:3], average=False)
    Worker(settings, store).run_one()
    lease = store.lease_node("host:1:w", 30)
    assert lease is not None
    refused(client.post(f"/api/v1/jobs/{job_id}/leaves", json={"leaves": ["dan"]}), 422, "02b began already")
    assert [node.state for node in store.nodes(job_id)] == [NodeState.DONE, NodeState.RUNNING]


def test_one_failed_node_is_retried_and_the_others_are_left(
    client: TestClient, settings: Settings, store: Store
) -> None:
    job_id = submit(client, LEAVES[:4])
    for reason in ("one", "two"):
        lease = store.lease_node("host:1:w", 30)
        assert lease is not None
        store.fail_node(lease, reason)
    Worker(settings, store).run_job(job_id)
    assert client.get(f"/api/v1/jobs/{job_id}").json()["state"] == "failed"
    refused(client.post(f"/api/v1/jobs/{job_id}/retry?node=03b"), 409, "03b did not fail")
    client.post(f"/api/v1/jobs/{job_id}/retry?node=02b")
    assert [nodes_of(client, job_id)[name]["state"] for name in ("01b", "02b")] == ["failed", "ready"]


def test_the_job_of_the_highest_priority_comes_first(client: TestClient, store: Store) -> None:
    submit(client, LEAVES[:2], output="early")
    late = submit(client, LEAVES[:2], output="late")
    assert client.post(f"/api/v1/jobs/{late}/priority", json={"priority": 5}).json()["priority"] == 5
    lease = store.lease_node("host:1:w", 30)
    assert lease is not None
    assert lease.job_id == late


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"leaves": ["ann"]}, "two"),
        ({"leaves": ["ann", "bob", "ann"]}, "leaf ann is named 2 times"),
        ({"nodes": {"07b": {"tally": "median"}}}, "no node '07b' in the bracket; there are 01b, 02b"),
        ({"nodes": {"01b": {"search": {"sampler": "psychic"}}}}, "nodes.01b.search: sampler"),
        ({"nodes": {"01b": {"tally": "mode"}}}, "nodes.01b.tally: unknown 'mode'"),
        ({"bracket": {"kind": "explicit"}}, "needs a table"),
        ({"bracket": {"kind": "round"}}, "'balanced'"),
        ({"bracket": {"table": [{"o": "x", "a": "ann", "b": "bob"}]}}, "a table is for kind `explicit`"),
        ({"bracket": {"first": "x"}}, "'x'"),
        (
            {"bracket": {"kind": "explicit", "table": [{"o": "x", "a": "ann", "b": "y"}]}, "leaves": []},
            "no model 'y'",
        ),
        (
            {
                "bracket": {
                    "kind": "explicit",
                    "table": [{"o": "x", "a": "ann", "b": "y"}, {"o": "y", "a": "x", "b": "bob"}],
                },
                "leaves": [],
            },
            "wait for each other",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_tree_that_cannot_be_is_refused(changes: dict[str, Any], words: str, client: TestClient) -> None:
    response = client.post("/api/v1/jobs", json=tree(LEAVES[:3]) | changes)
    refused(response, 422, words)
    assert client.get("/api/v1/jobs").json() == []
