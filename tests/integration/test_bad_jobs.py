"""A job that cannot work is refused before it is queued, with words that name the thing and the remedy."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import load_file, save_file

from service.settings import Settings, load_settings
from tests.tiny_models import job
from tests.unit.optimizer.checkpoint_files import write_header_only

PROBE = {"prompt": "a cat", "seed": 1, "steps": 2, "width": 32, "height": 32, "sampler": "Euler"}


@pytest.fixture(scope="module")
def bad_models(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny models and files that are none, or do not fit."""
    folder = tmp_path_factory.mktemp("bad-models")
    for path in tiny_models.iterdir():
        shutil.copy(path, folder)
    whole = (folder / "left.safetensors").read_bytes()
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "header.safetensors").write_bytes((10**15).to_bytes(8, "little") + b"{}")
    (folder / "folder").mkdir()
    shutil.copy(folder / "left.safetensors", folder / "twin.safetensors")
    tensors = load_file(folder / "left.safetensors")
    key = "model.diffusion_model.input_blocks.0.0.weight"
    save_file({**tensors, key: torch.full_like(tensors[key], float("nan"))}, folder / "nan.safetensors")
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(4, 8)}, folder / "lora.safetensors")
    for architecture in ("sd1", "sd2"):
        write_header_only(folder / f"{architecture}.safetensors", architecture)
    return folder


@pytest.fixture
def settings(installation: Path, bad_models: Path) -> Settings:
    return load_settings(installation, models_dir=bad_models)


def probes(**changes: Any) -> dict[str, Any]:
    return {"probes": [{**PROBE, **changes}]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"leaves": ["missing", "right"]}, r"no model 'missing'.*there are: "),
        ({"search": {"trials": 4, "start": [{"LABEL_EMB": 0.5}]}}, "LABEL_EMB"),
        (
            {"leaves": ["../secret", "right"]},
            r"'\.\./secret' is no model name: name a file of the models folder",
        ),
        ({"leaves": ["folder", "right"]}, "folder is a directory"),
        ({"leaves": ["empty", "right"]}, "empty"),
        ({"leaves": ["cut", "right"]}, "cut"),
        ({"leaves": ["header", "right"]}, "header"),
        ({"leaves": ["lora", "right"]}, "lora.safetensors is a LoRA, not a checkpoint"),
        (
            {"leaves": ["sd1", "sd2"]},
            r"model\.diffusion_model\.input_blocks\.\S+\.attn2\.to_k\.weight is 320x768 against 320x1024",
        ),
        ({"leaves": ["left", "nan"]}, "nan.safetensors is broken: block IN00 has .* NaN"),
        ({"leaves": ["left", "twin"]}, "'left' and 'twin' have the same content under two names"),
        ({"leaves": ["left", "left"]}, "leaf left is named 2 times"),
        (
            {"search": {"trials": 9, "drafts": {}}, "scorers": [{"scorer": "human"}], "watch": []},
            r"search\.drafts: people vote on whole images",
        ),
        ({"search": {"sampler": "gradient", "drafts": {}}}, "drafts do not go with sampler gradient"),
        ({"search": {"drafts": {"steps": 1}}}, "a draft with all steps at full size is the trial itself"),
        ({"tally": "mode"}, "tally: unknown 'mode'; known: arithmetic"),
        ({"scorers": [{"scorer": "taste"}]}, "unknown scorer 'taste'; known: .*clip"),
        ({"scorers": []}, "scorers: .*at least 1"),
        ({"scorers": [{"scorer": "clip", "model": "gone"}]}, "model of 'clip': .*gone does not exist"),
        ({"scorers": [{"scorer": "clip", "model": "/etc"}]}, "'/etc' lies outside"),
        ({"scorers": [{"scorer": "clip", "model": "../x"}]}, r"'\.\./x' lies outside"),
        ({"scorers": [{"scorer": "clip", "model": "reward"}] * 2}, "'clip' is named twice"),
        ({"search": {"trials": 0}}, r"search.trials: .*greater than or equal to 1 \(got 0\)"),
        ({"search": {"sampler": "psychic"}}, "search.*sampler: .*'gp'.*psychic"),
        ({"search": {"trails": 3}}, "search.trails: Extra inputs"),
        (probes(width=33), "33 is not a multiple of 8; take 32"),
        (probes(sampler="Magic"), "unknown sampler 'Magic'"),
        (probes(steps=0), "steps"),
        (probes(seed=-5), "seed"),
        (probes(colour="red"), "colour"),
        ({"probes": []}, "no probes in it"),
        ({"probes": "../../etc/passwd"}, r"probes: '\.\./\.\./etc/passwd' lies outside"),
        ({"heldout": []}, "heldout: no probes"),
        ({"output": "../out"}, r"output: '\.\./out' cannot be used as a name"),
        ({"output": "a\nb"}, "cannot be used as a name"),
        ({"prediction_type": "guess"}, "prediction_type: .*'epsilon'"),
        ({"weigths": {"IN00": 1.5}}, "weigths: Extra inputs"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_job_is_refused(changes: dict[str, Any], words: str, client: TestClient) -> None:
    response = client.post("/api/v1/jobs", json=job(**changes))
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert re.search(words, response.json()["detail"], re.DOTALL), response.json()["detail"]
    assert client.get("/api/v1/jobs").json() == [], "nothing is queued"


def test_an_output_that_exists_is_not_overwritten(client: TestClient, installation: Path) -> None:
    outputs = load_settings(installation).outputs_dir
    outputs.mkdir(parents=True)
    (outputs / "merged.safetensors").write_bytes(b"precious")
    response = client.post("/api/v1/jobs", json=job())
    assert response.status_code == 422
    assert "exists already; give another output name" in response.json()["detail"]


def test_an_output_of_another_job_is_a_conflict(client: TestClient) -> None:
    assert client.post("/api/v1/jobs", json=job()).status_code == 201
    response = client.post("/api/v1/jobs", json=job(name="again"))
    assert response.status_code == 409
    assert "output 'merged' belongs to job" in response.json()["detail"]


def test_a_body_that_is_no_json_is_refused(client: TestClient) -> None:
    response = client.post("/api/v1/jobs", content=b"{", headers={"Content-Type": "application/json"})
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
