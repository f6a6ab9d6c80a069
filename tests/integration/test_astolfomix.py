"""`examples/astolfomix-sd2.yaml`: the whole article as one job, told and run on models that stand in."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fastapi.testclient import TestClient
from safetensors.torch import load_file

from optimizer.checkpoints.parts import component_of
from optimizer.components import average, extract
from service.api.app import create_app
from service.db.store import Store
from service.jobfile import read_job_file
from service.settings import Settings, load_settings
from service.worker import Worker
from tests.integration.conftest import Cli, free_port, healthy, wait_until
from tests.tiny_models import write_models

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/astolfomix-sd2.yaml"
VAES = ("vae-ft-mse-840000-ema-pruned.ckpt", "kl-f8-anime2.ckpt")
MERGES = [f"{number}b" for number in range(201, 211)]


def models_named() -> list[str]:
    """The models that the example names, without the VAEs."""
    job = yaml.safe_load(EXAMPLE.read_text())
    leaves = job["leaves"]
    named = [leaf["model"] for leaf in leaves if "model" in leaf]
    named += next(leaf["unet"]["uniform"] for leaf in leaves if leaf["name"] == "211")
    named += job["components"]["text_encoder"]["uniform"]
    return list(dict.fromkeys(named))


def lend(folder: Path, donors: Sequence[Path]) -> Path:
    """A models folder with stand-ins for every model and VAE of the example.

    donors: checkpoints that differ in their UNets; where they are too few, means of two of them stand in.
    """
    pairs = ((x, y) for i, x in enumerate(donors) for y in donors[i + 1 :])
    for place, name in enumerate(models_named()):
        file = folder / f"{name}.safetensors"
        if place < len(donors):
            file.hardlink_to(donors[place])
        else:
            average(next(pairs), ["unet"], file, metadata={"prediction_type": "v_prediction"})
    for place, name in enumerate(VAES):
        alone = folder.parent / "vae.safetensors"
        extract(donors[0], ["vae"], alone, metadata={})
        # The second one is another: what is baked in must not be what was rendered with.
        tensors = {key: tensor * (1 + place / 100) for key, tensor in load_file(alone).items()}
        torch.save({"state_dict": tensors}, folder / name)
    return folder


def shortened(settings: Settings, scorer: str, **changes: Any) -> dict[str, Any]:
    """The example's request with its values for a small model: size, steps, trials, scorer."""
    text = EXAMPLE.read_text()
    for was, now in (
        (r"\bSteps: \d+", "Steps: 1"),
        (r"Size: \d+x\d+", "Size: 32x32"),
        (r"Hires steps: \d+", "Hires steps: 1"),
        (r"laion-chad, model: laion-chad", f"clip, model: {scorer}"),
    ):
        text = re.sub(was, now, text)
    file = settings.data_dir.parent / "astolfomix.yaml"
    file.write_text(text)
    return {**read_job_file(file), **changes}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("astolfomix")
    names = tuple(f"m{place}" for place in range(6))
    write_models(folder / "donors", names)
    (folder / "models").mkdir()
    return lend(folder / "models", [folder / f"donors/{name}.safetensors" for name in names])


@pytest.fixture
def settings(installation: Path, tiny: Path) -> Settings:
    return load_settings(installation, models_dir=tiny)


def finished(settings: Settings, client: TestClient, request: dict[str, Any]) -> dict[str, Any]:
    """The job, run to its end: its progress."""
    response = client.post("/api/v1/jobs", json=request)
    assert response.status_code == 201, response.text
    store = Store(settings.database_url)
    Worker(settings, store).run_job(response.json()["id"])
    store.close()
    job: dict[str, Any] = client.get(f"/api/v1/jobs/{response.json()['id']}").json()
    assert job["state"] == "done", [(node["name"], node["reason"]) for node in job["nodes"]]
    return job


def check_result(job: dict[str, Any], settings: Settings) -> None:
    """The tree is the article's, and the file has its joined text encoder and its VAE."""
    nodes = {node["name"]: node for node in job["nodes"]}
    assert [name for name, node in nodes.items() if node["kind"] == "merge"] == MERGES
    assert sum(node["kind"] == "compose" for node in nodes.values()) == 11
    better = max(("206b", "207b"), key=lambda name: (nodes[name]["best"]["score"], name == "206b"))
    other = "207b" if better == "206b" else "206b"
    assert (nodes["208b"]["a"], nodes["208b"]["b"]) == ("205b", better)
    assert (nodes["209b"]["a"], nodes["209b"]["b"]) == (other, "208b")
    assert (nodes["210b"]["a"], nodes["210b"]["b"]) == ("211", "209b")
    made = load_file(nodes["210b"]["checkpoint"]["path"])
    leaf = load_file(nodes["211"]["checkpoint"]["path"])
    baked = torch.load(settings.models_dir / VAES[1], weights_only=True)["state_dict"]
    for key, tensor in made.items():
        if component_of(key) == "vae":
            assert torch.equal(tensor, baked[key]), key
        elif component_of(key) == "text_encoder":
            assert torch.equal(tensor, leaf[key]), key


def test_the_example_says_what_the_article_says() -> None:
    job = read_job_file(EXAMPLE)
    assert len(models_named()) == 15, "12 UNets and 4 text encoders from 15 models"
    assert len(job["leaves"]) == 11
    assert len(next(leaf["unet"]["uniform"] for leaf in job["leaves"] if leaf["name"] == "211")) == 12
    assert [row["o"] for row in job["bracket"]["table"]] == MERGES
    seeds = [re.search(r"Seed: (\d+)", probe["infotext"])[1] for probe in job["probes"]]  # type: ignore[index]
    assert seeds == ["802596511", "3195552242", "372021954", "802596570"]


def test_submit_dry_run_tells_it_step_by_step(settings: Settings, tiny: Path, cli: Cli) -> None:
    del settings
    text = EXAMPLE.read_text().replace("laion-chad, model: laion-chad", "clip, model: reward")
    (cli.folder / "job.yaml").write_text(text)
    cli.environment["AUTOMBW_MODELS_DIR"] = str(tiny)
    port = free_port()
    server = f"http://127.0.0.1:{port}"
    cli.start("serve", "--port", str(port), "--workers", "0")
    wait_until(lambda: healthy(server), "the service")
    told = cli.run("submit", "--dry-run", "job.yaml", "--server", server)
    assert told.returncode == 0, told.stderr
    for line in (
        "1. put leaf 202a together",
        "text encoder the mean of 213-cool-japan-2-1-2, 215-wd-1-5-beta3, 217-sd-2-1-768, 220-realgar-v21",
        "11. put leaf 211 together",
        "19. merge 208b = 205b + best(206b,207b)",
        "best(206b,207b) is the better of 206b and 207b; where another than 206b is picked,",
        "21. merge 210b = 211 + 209b",
        "baked into the file: VAE of kl-f8-anime2.ckpt",
        "1 image: 1344x768, 256 steps of Euler; then 2688x1536, 64 steps of Euler",
        "1 image: 1024x576, 192 steps of Euler; then 1536x864, 192 steps of Euler",
        "at most 600 trials, 2400 images, 806400 denoising steps",
        "result: 210b-AstolfoMix-SD2.safetensors",
        "nothing was queued",
    ):
        assert line in told.stdout, told.stdout
    as_json = json.loads(cli.run("submit", "--dry-run", "job.yaml", "--server", server, "--json").stdout)
    assert as_json["denoising_steps"] == 600 * ((256 + 64) * 3 + 192 * 2)
    assert json.loads(cli.run("status", "--json", "--server", server).stdout) == []


def test_the_example_runs_on_tiny_models(settings: Settings, client: TestClient) -> None:
    request = shortened(settings, "reward", search={"sampler": "random", "trials": 1})
    request["probes"] = [re.sub(r", Hires.*?Latent|, Denoising.*?0\.7", "", request["probes"][0]["infotext"])]
    request["probes"] = [{"infotext": request["probes"][0]}]
    check_result(finished(settings, client, request), settings)


@pytest.mark.slow
def test_the_example_runs_on_the_zoo(tmp_path: Path) -> None:
    from examples.emoji.assemble import assemble, assemble_reward

    assemble_reward(tmp_path / "scorers/emoji-clip")
    (tmp_path / "models").mkdir()
    settings = load_settings(
        models_dir=lend(tmp_path / "models", assemble(tmp_path / "zoo")),
        scorers_dir=tmp_path / "scorers",
        data_dir=tmp_path / "data",
        device="cpu",
    )
    request = shortened(settings, "emoji-clip", search={"sampler": "gp", "trials": 4, "seed": 1})
    with TestClient(create_app(settings)) as client:
        job = finished(settings, client, request)
    check_result(job, settings)
    assert job["result"]["winner"]["search"] >= job["result"]["leaves"]["211"]["search"]
