"""Whatever a request names, the service asks nobody on the network for it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from huggingface_hub import constants

from scoring.errors import InputError
from scoring.hub import OFFLINE
from scoring.scorers.base import ScorerSpec
from scoring.scorers.clip_score import Backbone
from scoring.scorers.weights import located
from service.api.app import create_app
from service.settings import load_settings
from tests.tiny_models import job, write_reward

HUB_ID, URL, PATH = "stabilityai/stable-diffusion-2-1", "https://evil.example/x.safetensors", "/etc/passwd"
UPWARDS = "../../etc/passwd"
NAMES = (HUB_ID, URL, PATH, UPWARDS)
LOOPBACK = ("127.0.0.1", "::1", "localhost", "testserver")


class Dialled(Exception):
    """Somebody tried to reach another machine."""


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts that were asked for; none is reached."""
    asked: list[str] = []

    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def check(host: object) -> None:
        if host is not None and str(host) not in LOOPBACK:
            asked.append(str(host))
            raise Dialled(host)

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            check(address[0])
        connect(self, address)

    def look_up_here(host: Any, *more: Any, **how: Any) -> Any:
        check(host)
        return look_up(host, *more, **how)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)
    return asked


@pytest.fixture
def client(
    tmp_path: Path, tiny_models: Path, tiny_scorers: Path, monkeypatch: pytest.MonkeyPatch, dialled: list[str]
) -> Iterator[TestClient]:
    """A service as it runs where nobody has set anything: not even the variables that tests are run with."""
    for name in OFFLINE:
        # Set before it is deleted: what the service sets is undone after the test.
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    settings = load_settings(
        data_dir=tmp_path / "data", models_dir=tiny_models, scorers_dir=tiny_scorers, device="cpu"
    )
    with TestClient(create_app(settings)) as client:
        assert constants.HF_HUB_OFFLINE, "the service keeps its process off the hub"
        yield client


def everywhere(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, body) of a submission that names it there."""
    given = job()["probes"]
    yield "leaves", job(leaves=[name, "right"])
    leaf = {"name": "left", "model": "left"}
    for part in ("unet", "text_encoder", "vae"):
        yield f"leaves {part}", job(leaves=[{**leaf, part: {"from": name}}, "right"])
        yield f"leaves {part} mean", job(leaves=[{**leaf, part: {"uniform": [name, "right"]}}, "right"])
    for part in ("text_encoder", "vae"):
        yield f"components {part}", job(components={part: {"from": name}})
        yield f"output {part}", job(output={"name": "merged", part: {"from": name}})
    yield "output", job(output=name)
    yield "scorers", job(scorers=[{"scorer": "clip", "model": name}])
    yield "scorers, a classifier", job(scorers=[{"scorer": "cafe-aesthetic", "model": name}])
    yield "scorers, by name", job(scorers=[{"scorer": name}])
    yield "watch", job(watch=[{"scorer": "pickscore", "model": name}])
    yield "probes", job(probes=[name])
    yield "heldout", job(heldout=[name])
    yield "sampler", job(probes={**given, "defaults": {**given["defaults"], "sampler": name}})


def test_no_field_of_a_submission_reaches_the_network(client: TestClient, dialled: list[str]) -> None:
    for name in NAMES:
        for where, body in everywhere(name):
            answer = client.post("/api/v1/jobs", json=body)
            assert answer.status_code == 422, (name, where, answer.text)
            assert len(answer.json()["detail"]) > 20, where
    assert dialled == []


def test_no_other_request_with_a_model_reaches_the_network(client: TestClient, dialled: list[str]) -> None:
    for name in NAMES:
        for path, body in (
            ("components/extract", {"model": name, "components": ["vae"], "output": "x"}),
            ("components/convert", {"model": name, "output": "x"}),
            ("components/prune", {"model": name, "output": "x"}),
            ("uniform", {"models": [name, "left"], "output": "x"}),
        ):
            answer = client.post(f"/api/v1/{path}", json=body)
            assert answer.status_code == 422, (path, answer.text)
        assert client.get("/api/v1/components", params={"model": name}).status_code in (404, 422)
    assert dialled == []


def test_an_infotext_that_names_models_elsewhere_is_only_read(client: TestClient, dialled: list[str]) -> None:
    text = (
        f"a cat <lora:{URL}:1>\nSteps: 2, Sampler: Euler, CFG scale: 3, Seed: 1, Size: 32x32, "
        f'Model: {HUB_ID}, VAE: {URL}, Lora hashes: "x: {URL}"'
    )
    answer = client.post("/api/v1/jobs/plan", json=job(probes={"infotext": text}))
    assert answer.status_code in (200, 422), answer.text
    assert dialled == []


def test_a_hub_id_is_refused_with_the_setting_that_allows_it(client: TestClient) -> None:
    body = job(scorers=[{"scorer": "clip", "model": "laion/not-here"}])
    detail = client.post("/api/v1/jobs", json=body).json()["detail"]
    assert "nothing is fetched from a hub unless the setting allow_hub is on" in detail
    assert "hf download laion/not-here" in detail


def test_a_model_whose_config_names_one_of_the_hub_is_not_fetched(
    client: TestClient, tmp_path: Path, dialled: list[str]
) -> None:
    assert client.get("/healthz").status_code == 200
    folder = tmp_path / "hostile"
    write_reward(folder)
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["text_cfg"] = {"hf_model_name": "evil/model", "hf_tokenizer_name": "evil/tokenizer"}
    file.write_text(json.dumps(config))
    with pytest.raises(InputError, match="allow_hub"):
        Backbone(folder, torch.device("cpu"))
    assert dialled == []


def test_with_the_setting_a_missing_model_is_asked_for(
    tmp_path: Path, dialled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    spec = ScorerSpec(scorer="clip", model="laion/not-here")
    with pytest.raises(InputError, match=re.escape("laion/not-here can't be fetched from the hub")):
        located(spec, tmp_path / "scorers", hub=True)
    assert dialled
