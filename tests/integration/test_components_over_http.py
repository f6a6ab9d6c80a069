"""Components over HTTP: a real service takes models apart and puts them together."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn
from safetensors.torch import load_file
from typer.testing import CliRunner

from optimizer.checkpoints import sha256_of
from optimizer.checkpoints.parts import component_of
from optimizer.component_recipes import read_component_recipe
from optimizer.components import extract
from scoring.errors import InputError
from service.api.app import create_app
from service.cli import app as commands
from service.settings import Settings, load_settings
from tests.integration.conftest import free_port, wait_until
from tests.unit.optimizer.checkpoint_files import write_header_only, write_random


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two whole models, a VAE alone, and SD1 and SD2 as headers."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two")):
        write_random(folder / f"{name}.safetensors", seed, torch.float16)
    extract(folder / "two.safetensors", ["vae"], folder / "vae.safetensors", metadata={})
    write_header_only(folder / "sd1.safetensors", "sd1")
    write_header_only(folder / "sd2.safetensors", "sd2")
    return folder


@pytest.fixture(scope="module")
def settings(models: Path) -> Settings:
    return load_settings(models_dir=models, data_dir=models.parent / "data", device="cpu")


@pytest.fixture(scope="module")
def http(settings: Settings) -> Iterator[httpx.Client]:
    """A client of a service under uvicorn."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, "the service")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=120) as client:
        yield client
    server.should_exit = True
    thread.join()


def written(http: httpx.Client, settings: Settings, path: str, **body: Any) -> dict[str, torch.Tensor]:
    """The tensors of the file that a request wrote; the answer tells the truth of it."""
    answer = http.post(path, json=body)
    assert answer.status_code == 201, answer.text
    told = answer.json()
    file = settings.outputs_dir / f"{body['output']}.safetensors"
    assert (told["name"], told["sha256"], told["size"]) == (
        body["output"],
        sha256_of(file),
        file.stat().st_size,
    )
    tensors: dict[str, torch.Tensor] = load_file(file)
    return tensors


def test_a_join_has_every_component_from_where_it_was_said(
    http: httpx.Client, settings: Settings, models: Path
) -> None:
    sources = {"unet": ["one"], "text_encoder": ["one", "two"], "vae": ["vae"]}
    found = written(http, settings, "/components/join", output="joined", **sources)
    one, two = (load_file(models / f"{name}.safetensors") for name in ("one", "two"))
    for key, tensor in found.items():
        wanted = {
            "unet": one[key],
            "text_encoder": ((one[key].float() + two[key].float()) / 2).half(),
            "vae": two[key],
        }[str(component_of(key))]
        assert torch.equal(tensor, wanted), key


def test_each_way_writes_its_file_and_tells_its_recipe(
    http: httpx.Client, settings: Settings, models: Path
) -> None:
    one, two = (load_file(models / f"{name}.safetensors") for name in ("one", "two"))
    vae = written(http, settings, "/components/extract", model="one", components=["vae"], output="x")
    assert {component_of(key) for key in vae} == {"vae"}
    swapped = written(
        http, settings, "/components/swap", model="one", component="vae", source="vae", output="s"
    )
    key = next(key for key in one if component_of(key) == "vae")
    assert torch.equal(swapped[key], two[key])
    cast = written(http, settings, "/components/convert", model="one", dtype="bf16", output="c")
    assert {tensor.dtype for tensor in cast.values()} == {torch.bfloat16}
    pruned = written(http, settings, "/components/prune", model="one", output="p")
    assert all(torch.equal(pruned[key], one[key]) for key in one)
    mean = written(http, settings, "/uniform", models=["one", "two"], components=["unet"], output="u")
    key = next(key for key in one if component_of(key) == "unet")
    assert torch.equal(mean[key], ((one[key].float() + two[key].float()) / 2).half())
    again = http.post("/uniform", json={"models": ["one", "two"], "output": "u2"}).json()["recipe"]
    assert again["action"] == "uniform"
    assert [parent["name"] for parent in again["parents"]["unet"]] == ["one.safetensors", "two.safetensors"]
    assert read_component_recipe({"autombw_components": json.dumps(again)}) is not None


def test_components_are_listed(http: httpx.Client) -> None:
    rows = http.get("/components", params={"model": ["one", "vae"]}).json()
    assert [(row["model"], row["component"]) for row in rows] == [
        ("one", "unet"),
        ("one", "text_encoder"),
        ("one", "vae"),
        ("vae", "vae"),
    ]
    assert rows[0]["fits"] == ["emoji"]


@pytest.mark.parametrize(
    ("path", "body", "command"),
    [
        # Slow: files of 2 GB are hashed.
        pytest.param(
            "/uniform", {"models": ["sd1", "sd2"]}, ["uniform", "sd1", "sd2"], marks=pytest.mark.slow
        ),
        ("/uniform", {"models": ["one"]}, ["uniform", "one"]),
        (
            "/components/join",
            {"unet": ["one"], "text_encoder": ["vae"], "vae": ["vae"]},
            ["components", "join", "--unet", "one", "--text-encoder", "vae", "--vae", "vae"],
        ),
        pytest.param(
            "/components/swap",
            {"model": "sd1", "component": "text_encoder", "source": "sd2"},
            ["components", "swap", "sd1", "text_encoder", "sd2"],
            marks=pytest.mark.slow,
        ),
        (
            "/components/extract",
            {"model": "vae", "components": ["unet"]},
            ["components", "extract", "vae", "--components", "unet"],
        ),
        ("/components/prune", {"model": "one", "ema": "use"}, ["components", "prune", "one", "--ema", "use"]),
        (
            "/components/convert",
            {"model": "nobody", "dtype": "fp16"},
            ["components", "convert", "nobody", "--dtype", "fp16"],
        ),
    ],
)
def test_an_error_is_that_of_the_command_line(
    http: httpx.Client,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: dict[str, Any],
    command: list[str],
) -> None:
    answer = http.post(path, json={**body, "output": "refused"})
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    monkeypatch.setenv("AUTOMBW_MODELS_DIR", str(settings.models_dir))
    monkeypatch.setenv("AUTOMBW_DATA_DIR", str(settings.data_dir))
    out = settings.data_dir / "refused.safetensors"
    error = CliRunner().invoke(commands, [*command, "-o", str(out)]).exception
    assert isinstance(error, InputError)
    assert answer.json()["detail"] == str(error)
    assert not (settings.outputs_dir / "refused.safetensors").exists()


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "../one", "output": "x"}, 422, "is no model name"),
        ({"model": "/etc/passwd", "output": "x"}, 422, "is no model name"),
        ({"model": "one", "output": "../x"}, 422, "cannot be used as a name"),
        ({"model": "one", "output": "twice"}, 409, "twice.safetensors exists already"),
        ({"model": "one"}, 422, "output"),
    ],
)
def test_names_only_and_nothing_is_written_over(
    http: httpx.Client, settings: Settings, body: dict[str, str], status: int, words: str
) -> None:
    settings.outputs_dir.mkdir(parents=True, exist_ok=True)
    (settings.outputs_dir / "twice.safetensors").write_bytes(b"mine")
    answer = http.post("/components/prune", json=body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert (settings.outputs_dir / "twice.safetensors").read_bytes() == b"mine"


def test_others_are_answered_while_a_file_is_written(
    http: httpx.Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow(*_: object, **__: object) -> None:
        began.set()
        assert go_on.wait(60)
        raise InputError("slow enough")

    monkeypatch.setattr("optimizer.components.average", slow)
    answers: list[int] = []
    body = {"models": ["one", "two"], "output": "slow"}
    waiting = threading.Thread(target=lambda: answers.append(http.post("/uniform", json=body).status_code))
    waiting.start()
    assert began.wait(60)
    try:
        assert http.get("/models").status_code == 200
        assert not answers
    finally:
        go_on.set()
        waiting.join()
    assert answers == [422]
    assert not (settings.outputs_dir / "slow.safetensors").exists()
