"""The API in this process, with a worker beside it: a job from submission to download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from service.api.app import create_app
from service.db.store import Store
from service.settings import Settings
from service.worker import Worker
from tests.tiny_models import job


def submit(client: TestClient, **changes: Any) -> str:
    response = client.post("/api/v1/jobs", json=job(**changes))
    assert response.status_code == 201, response.text
    assert response.headers["Location"] == f"/api/v1/jobs/{response.json()['id']}"
    return str(response.json()["id"])


def test_a_job_ends_with_a_checkpoint_a_recipe_and_scores(
    client: TestClient, settings: Settings, store: Store
) -> None:
    job_id = submit(client)
    Worker(settings, store).run_job(job_id)

    progress = client.get(f"/api/v1/jobs/{job_id}").json()
    assert progress["state"] == "done", progress
    (node,) = progress["nodes"]
    assert (node["trials_done"], node["trials_failed"], node["renders"]) == (4, 0, 4 * 2 + 4)
    assert set(node["scores"]) == {
        f"{phase}/{name}" for phase in ("search", "heldout") for name in ("a", "b", "uniform", "winner")
    }
    assert node["gain"] >= 0, "the baselines are trials of the search"

    trials = client.get(f"/api/v1/jobs/{job_id}/trials").json()
    assert [set(trial["weights"].values()) for trial in trials[:3]] == [{0.0}, {1.0}, {0.5}]
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]
    assert {"propose", "merge", "render", "score", "store"} <= set(trials[0]["timings"])

    best = client.get(f"/api/v1/jobs/{job_id}/best").json()
    assert best["score"] == max(trial["score"] for trial in trials) == node["scores"]["search/winner"]
    image = client.get(best["renders"][0]["image"])
    assert image.headers["content-type"] == "image/png"

    recipe = client.get(f"/api/v1/jobs/{job_id}/recipe").json()
    assert recipe["weights"] == best["weights"]
    artefact = settings.data_dir / "downloaded.safetensors"
    artefact.write_bytes(client.get(f"/api/v1/jobs/{job_id}/artefact").content)
    with safe_open(artefact, "pt") as file:
        assert json.loads(file.metadata()["sd_merge_recipe"])["custom_name"] == "merged"


def test_events_are_streamed_and_can_be_read_on(client: TestClient, settings: Settings, store: Store) -> None:
    job_id = submit(client, search={"sampler": "random", "trials": 1}, heldout=None)
    Worker(settings, store).run_job(job_id)
    everything = stream(client, job_id)
    kinds = [event["event"] for event in everything]
    assert kinds[0] == "job.created"
    assert kinds[-1] == "job.state"
    assert "checkpoint.written" in kinds
    assert stream(client, job_id, after=everything[3]["id"]) == everything[4:]


def stream(client: TestClient, job_id: str, after: str = "0") -> list[dict[str, str]]:
    text = client.get(f"/api/v1/jobs/{job_id}/events", headers={"Last-Event-ID": after}).text
    blocks = [block for block in text.strip().split("\n\n") if "event:" in block]
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


def test_a_cancelled_job_is_not_worked_on(client: TestClient, settings: Settings, store: Store) -> None:
    job_id = submit(client)
    assert client.post(f"/api/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    assert not Worker(settings, store).run_one()
    again = client.post(f"/api/v1/jobs/{job_id}/cancel")
    assert (again.status_code, again.headers["content-type"]) == (409, "application/problem+json")
    assert "nothing left to cancel" in again.json()["detail"]


def test_a_model_that_changed_since_it_was_queued_is_not_merged(
    client: TestClient, settings: Settings, store: Store, tmp_path: Path
) -> None:
    own = tmp_path / "models"
    own.mkdir()
    for name in ("left", "right"):
        own.joinpath(f"{name}.safetensors").write_bytes(
            (settings.models_dir / f"{name}.safetensors").read_bytes()
        )
    moved = settings.model_copy(update={"models_dir": own})
    with TestClient(create_app(moved)) as other:
        job_id = submit(other)
    content = bytearray((own / "right.safetensors").read_bytes())
    content[-1] ^= 1
    (own / "right.safetensors").write_bytes(content)
    Worker(moved, store).run_job(job_id)
    node = client.get(f"/api/v1/jobs/{job_id}").json()["nodes"][0]
    assert node["state"] == "failed"
    assert "model 'right' is not the file it was when the job was queued" in node["reason"]


def test_a_node_is_not_searched_further_in_numbers_that_move_other_blocks(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    """A step of 2^-10 is one in float32 and none in bfloat16, and its block with it."""
    own = tmp_path / "models"
    own.mkdir()
    left, right = (load_file(settings.models_dir / f"{name}.safetensors") for name in ("left", "right"))
    out = "model.diffusion_model.out."
    right |= {key: tensor for key, tensor in left.items() if key.startswith(out)}
    for name, tensors, value in (("left", left, 1.0), ("right", right, 1 + 2**-10)):
        bias = torch.full_like(tensors[f"{out}2.bias"], value)
        save_file({**tensors, f"{out}2.bias": bias}, own / f"{name}.safetensors")
    over = settings.model_copy(update={"models_dir": own, "dtype": "float32"})
    with TestClient(create_app(over)) as client:
        job_id = submit(client, heldout=None)
        Worker(over, store).run_job(job_id)
        client.post(f"/api/v1/jobs/{job_id}/nodes/01b/extend", json={"trials": 2})
        Worker(over.model_copy(update={"dtype": "bfloat16"}), store).run_job(job_id)
        node = client.get(f"/api/v1/jobs/{job_id}").json()["nodes"][0]
    assert node["state"] == "paused"
    assert "do not weigh the same blocks (OUT)" in node["reason"]
    assert "set dtype as it was" in node["reason"]


@pytest.mark.parametrize("path", ["/api/v1/jobs/nope", "/api/v1/jobs/nope/events", "/api/v1/jobs/nope/best"])
def test_an_unknown_job_is_a_problem_that_names_it(path: str, client: TestClient) -> None:
    response = client.get(path)
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
    assert "'nope'" in response.json()["detail"]


def test_what_is_not_there_yet_is_said(client: TestClient) -> None:
    job_id = submit(client)
    for path, words in (
        ("best", "no successful trial yet"),
        ("artefact", "no merged checkpoint"),
        ("recipe", "no merged checkpoint"),
        ("trials?node=3", "has no node '3'; its nodes are 01b"),
    ):
        response = client.get(f"/api/v1/jobs/{job_id}/{path}")
        assert response.status_code == 404
        assert words in response.json()["detail"]


def test_models_are_listed_and_inspected(client: TestClient) -> None:
    assert [model["name"] for model in client.get("/api/v1/models").json()] == ["left", "right"]
    found = client.get("/api/v1/models/left").json()
    assert (found["architecture"], found["prediction_type"]) == ("emoji", "v_prediction")
    assert len(found["sha256"]) == 64


def test_the_service_describes_itself(client: TestClient) -> None:
    assert client.get("/healthz").json()["status"] == "ok"
    assert "autombw</title>" in client.get("/").text
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert operation.get("description") or path.endswith("healthz"), path
