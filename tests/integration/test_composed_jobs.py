"""Jobs whose leaves and output are put together from components of several models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from optimizer.checkpoints import sha256_of
from optimizer.checkpoints.parts import component_of
from optimizer.component_recipes import read_component_recipe
from optimizer.components import extract
from optimizer.recipes import read_recipe
from scoring.errors import InputError
from service.cli import app as commands
from service.composing import compose
from service.db.states import NodeKind, NodeState
from service.db.store import Store
from service.settings import Settings, load_settings
from service.worker import Worker
from tests.installed import install_scorers
from tests.tiny_models import job, write_models
from tests.unit.optimizer.checkpoint_files import write_header_only

MODELS = ("ann", "bob", "cat", "dan")
JOINED = {"text_encoder": {"uniform": ["ann", "bob", "cat"]}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four models whose text encoders and VAEs differ too, and `anime`, a VAE alone."""
    folder = tmp_path_factory.mktemp("parts")
    write_models(folder, (*MODELS, "other"))
    for number, name in enumerate((*MODELS, "other")):
        file = folder / f"{name}.safetensors"
        moved = {
            key: tensor if component_of(key) in ("unet", None) else tensor * (1 + number / 100)
            for key, tensor in load_file(file).items()
        }
        save_file(moved, file)
    extract(folder / "other.safetensors", ["vae"], folder / "anime.safetensors", metadata={})
    (folder / "other.safetensors").unlink()
    return folder


@pytest.fixture
def settings(installation: Path, models: Path) -> Settings:
    return load_settings(installation, models_dir=models)


def request(leaves: list[Any], **changes: Any) -> dict[str, Any]:
    one_probe = {"sampler": "Euler", "steps": 1, "cfg_scale": 1.0, "width": 32, "height": 32}
    probes = {"defaults": one_probe, "prompts": ["a cat"], "seeds": [1]}
    given = {"probes": probes, "heldout": None, "search": {"sampler": "random", "trials": 3}, **changes}
    return job(leaves=leaves, **given)


def submit(client: TestClient, leaves: list[Any], **changes: Any) -> str:
    response = client.post("/api/v1/jobs", json=request(leaves, **changes))
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def nodes_of(client: TestClient, job_id: str) -> dict[str, dict[str, Any]]:
    return {node["name"]: node for node in client.get(f"/api/v1/jobs/{job_id}").json()["nodes"]}


def parts_of(path: Path, component: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in load_file(path).items() if component_of(key) == component}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def mean(models: Path, names: list[str], component: str) -> dict[str, torch.Tensor]:
    parts = [parts_of(models / f"{name}.safetensors", component) for name in names]
    return {
        key: torch.stack([part[key].float() for part in parts]).mean(0).to(first.dtype)
        if first.is_floating_point()
        else first
        for key, first in parts[0].items()
    }


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


MIXED = {"name": "mix", "unet": {"uniform": ["ann", "bob"]}}
BAKED = {"name": "merged", "vae": {"from": "anime"}}


def test_leaves_and_output_are_put_together(
    client: TestClient, settings: Settings, store: Store, models: Path
) -> None:
    kept = {"name": "dan2", "model": "dan", "text_encoder": "keep", "vae": {"from": "ann"}}
    job_id = submit(client, [MIXED, "cat", kept], components=JOINED, output=BAKED)
    before = nodes_of(client, job_id)
    composed = {name for name, node in before.items() if node["kind"] == "compose"}
    assert composed == {"mix", "cat", "dan2"}
    assert {name for name, node in before.items() if node["state"] == "ready"} == composed
    assert any("text encoder the mean of ann, bob, cat" in note for note in before["mix"]["notes"])

    Worker(settings, store).run_job(job_id)
    after = nodes_of(client, job_id)
    assert {node["state"] for node in after.values()} == {"done"}, after
    assert (after["01b"]["a"], after["01b"]["b"], after["cat"]["trials_planned"]) == ("mix", "cat", 0)
    files = {name: Path(node["checkpoint"]["path"]) for name, node in after.items() if node["checkpoint"]}
    joined = mean(models, ["ann", "bob", "cat"], "text_encoder")
    assert same(parts_of(files["mix"], "unet"), mean(models, ["ann", "bob"], "unet"))
    assert same(parts_of(files["mix"], "text_encoder"), joined)
    assert same(parts_of(files["mix"], "vae"), parts_of(models / "ann.safetensors", "vae"))
    assert same(parts_of(files["cat"], "unet"), parts_of(models / "cat.safetensors", "unet"))
    for component, source in (("unet", "dan"), ("text_encoder", "dan"), ("vae", "ann")):
        assert same(parts_of(files["dan2"], component), parts_of(models / f"{source}.safetensors", component))
    # The job's result has the VAE that was asked for; what leads to it has its A's.
    anime = parts_of(models / "anime.safetensors", "vae")
    assert same(parts_of(files["02b"], "vae"), anime)
    assert not same(parts_of(files["01b"], "vae"), anime)
    assert set(client.get(f"/api/v1/jobs/{job_id}").json()["result"]["leaves"]) == {"mix", "cat", "dan2"}


def test_recipes_tell_of_what_a_file_is_composed(
    client: TestClient, settings: Settings, store: Store, models: Path
) -> None:
    job_id = submit(client, [MIXED, "cat"], components=JOINED, output=BAKED)
    Worker(settings, store).run_job(job_id)
    nodes = nodes_of(client, job_id)
    leaf, out = (Path(nodes[name]["checkpoint"]["path"]) for name in ("mix", "01b"))
    recipe = read_component_recipe(metadata(leaf))
    assert recipe is not None
    assert {part: [p.name for p in of] for part, of in recipe.parents.items()} == {
        "unet": ["ann.safetensors", "bob.safetensors"],
        "text_encoder": ["ann.safetensors", "bob.safetensors", "cat.safetensors"],
        "vae": ["ann.safetensors"],
    }
    assert recipe.parents["unet"][1].sha256 == sha256_of(models / "bob.safetensors")
    merge = read_recipe(metadata(out))
    assert merge is not None
    assert merge.vae_from == "anime.safetensors"
    assert merge.components["vae"][0].sha256 == sha256_of(models / "anime.safetensors")
    a1111 = json.loads(metadata(out)["sd_merge_recipe"])
    ancestors = json.loads(metadata(out)["sd_merge_models"])
    assert a1111["bake_in_vae"] == "anime.safetensors"
    names = {model["name"] for model in ancestors.values()}
    assert {"ann.safetensors", "bob.safetensors", "cat.safetensors", "anime.safetensors"} <= names
    assert client.get(f"/api/v1/jobs/{job_id}/recipe?node=mix").json()["action"] == "join"
    # A .mecha file says a merge of A and B: with A's VAE it would be another checkpoint.
    refused = CliRunner().invoke(commands, ["export-mecha", str(out), str(out.with_suffix(".mecha"))])
    assert isinstance(refused.exception, InputError)
    assert "(but its vae)" in str(refused.exception)


def test_a_composed_leaf_is_ranked_by_its_score_and_measures_several_scorers(
    client: TestClient, settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "class Red:\n"
        "    differentiable = True\n"
        "    def __init__(self, spec, device):\n"
        "        self.name = spec.scorer\n"
        "    def score(self, images, prompts):\n"
        "        return images[:, 0].mean(dim=(1, 2))\n"
    )
    install_scorers(tmp_path, monkeypatch, "reds", {"red": "Red"}, source)
    scorers = [{"scorer": "clip", "model": "reward"}, {"scorer": "red"}]
    two = request([])["probes"] | {"seeds": [1, 2]}
    job_id = submit(
        client, [MIXED, "cat", "dan"], bracket={"seeding": "score"}, scorers=scorers, probes=two, watch=[]
    )
    before = nodes_of(client, job_id)
    assert {name for name, node in before.items() if node["state"] == "ready"} == {"mix"}
    Worker(settings, store).run_job(job_id)
    after = nodes_of(client, job_id)
    assert {node["state"] for node in after.values()} == {"done"}, after
    ranked = sorted((n for n in after.values() if n["kind"] == "screen"), key=lambda n: -n["best"]["score"])
    assert [after["01b"]["a"], after["01b"]["b"]] == [node["a"] for node in ranked[:2]] or len(
        {node["best"]["score"] for node in ranked}
    ) < 3


def test_a_killed_worker_leaves_a_file_that_is_known_again(
    client: TestClient, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(client, [MIXED, "cat"])

    class Killed(BaseException):
        """No `except Exception` sees a kill."""

    worker = Worker(settings, store)
    with monkeypatch.context() as patched:
        # As when the process is gone after the file has its name and before its row is written.
        patched.setattr("service.node_run.compose", lambda context: _then_die(context, Killed))
        with pytest.raises(Killed):
            worker.run_one(job_id)
    file = settings.outputs_dir / "merged-mix.safetensors"
    written = file.stat().st_mtime_ns
    (node,) = (n for n in store.nodes(job_id) if n.kind is NodeKind.COMPOSE)
    assert node.state is NodeState.RUNNING
    assert node.output_sha256 == sha256_of(file)
    assert store.checkpoint(node.id) is None
    store.release_owner(worker.owner)
    Worker(settings, store).run_job(job_id)
    assert nodes_of(client, job_id)["01b"]["state"] == "done"
    assert file.stat().st_mtime_ns == written, "it is not written twice"


def _then_die(context: Any, kind: type[BaseException]) -> Any:
    compose(context)
    raise kind


def test_a_collected_leaf_is_made_again_to_the_bit(
    client: TestClient, settings: Settings, store: Store
) -> None:
    job_id = submit(client, [MIXED, "cat"], components=JOINED, output=BAKED)
    Worker(settings, store).run_job(job_id)
    before = {n: Path(node["checkpoint"]["path"]) for n, node in nodes_of(client, job_id).items()}
    hashes = {name: sha256_of(path) for name, path in before.items()}
    body = {"jobs": [job_id], "checkpoints": "final", "dry_run": False}
    collected = client.post("/api/v1/gc", json=body).json()
    assert {made["node"] for made in collected["checkpoints"]} == {"mix", "cat"}
    before["01b"].unlink()
    made = client.post(f"/api/v1/jobs/{job_id}/export", json={}).json()
    assert made["made_again"] == ["merged-mix", "merged-cat"]
    assert {name: sha256_of(path) for name, path in before.items()} == hashes
    trial = client.post(f"/api/v1/jobs/{job_id}/export", json={"trial": 2, "output": "third"}).json()
    anime = parts_of(settings.models_dir / "anime.safetensors", "vae")
    assert same(parts_of(Path(trial["path"]), "vae"), anime)


def test_a_plan_tells_every_step_and_queues_nothing(
    client: TestClient, settings: Settings, store: Store
) -> None:
    hires = {"scale": 2, "steps": 2, "denoising_strength": 0.5}
    defaults = {"sampler": "Euler", "steps": 3, "width": 32, "height": 32}
    probes = {"defaults": defaults, "prompts": ["a cat", "a dog"], "seeds": [1]}
    heldout = [{"prompt": "a bird", "seed": 2, **defaults, "hires": hires}]
    table = [
        {"o": "01b", "a": "mix", "b": "cat"},
        {"o": "02b", "a": "ann", "b": "dan"},
        {"o": "03b", "a": "bob", "b": "best(01b,02b)"},
        {"o": "04b", "a": "02b", "b": "03b"},
    ]
    asked = request(
        [{"name": "mix", "unet": {"uniform": ["ann", "bob", "cat"]}}, "cat", "ann", "dan", "bob"],
        probes=probes,
        heldout=heldout,
        output=BAKED,
        bracket={"kind": "explicit", "table": table},
        search={"sampler": "random", "trials": 5, "patience": 3},
    )
    plan = client.post("/api/v1/jobs/plan", json=asked).json()
    steps = {step["name"]: step for step in plan["steps"]}
    assert list(steps) == ["mix", "average", "01b", "02b", "03b", "04b"]
    assert steps["mix"]["details"] == ["UNet the mean of ann, bob, cat; text encoder of ann; VAE of ann"]
    assert steps["01b"]["does"] == "merge 01b = mix + cat"
    assert steps["01b"]["waits_for"] == ["mix"]
    assert steps["04b"]["waits_for"] == ["02b", "03b"]
    assert steps["average"]["waits_for"] == ["mix"]
    assert any("best(01b,02b) is the better of 01b and 02b" in text for text in steps["03b"]["details"])
    assert any("until 5 trials or 3 trials without a better one" in text for text in steps["03b"]["details"])
    assert any("5 x 2 images: 32x32, 3 steps of Euler" in text for text in steps["03b"]["details"])
    assert steps["04b"]["details"][0] == "baked into the file: VAE of anime"
    assert steps["03b"]["heldout"]["images"] == [
        {
            "probes": 1,
            "passes": [
                {"sampler": "Euler", "steps": 3, "width": 32, "height": 32},
                {"sampler": "Euler", "steps": 2, "width": 64, "height": 64},
            ],
        }
    ]
    # Five trials of two images and four of one, in each of four merges; the average's two.
    assert (plan["trials"], plan["renders"]) == (4 * 9 + 2, 4 * (10 + 4) + 3)
    assert plan["denoising_steps"] == 4 * (10 * 3 + 4 * 5) + 2 * 3 + 5
    assert plan["output"] == "merged.safetensors"
    assert plan["disk"]["checkpoints"] == sum(step["bytes"] for step in plan["steps"])
    assert client.get("/api/v1/jobs").json() == []

    job_id = client.post("/api/v1/jobs", json=asked).json()["id"]
    queued = store.nodes(job_id)
    assert {node.name for node in queued} == set(steps)
    whole = (settings.models_dir / "ann.safetensors").stat().st_size
    assert abs(whole - steps["mix"]["bytes"]) < 200_000
    again = client.post("/api/v1/jobs/plan", json=asked)
    assert again.status_code in (409, 422), "the outputs are another job's by now"
    other = client.post("/api/v1/jobs/plan", json={**asked, "output": "free"})
    assert other.status_code == 200, other.text


def test_jobs_with_composed_leaves_are_cloned_extended_and_given_more(
    client: TestClient, settings: Settings, store: Store
) -> None:
    job_id = submit(client, [MIXED, "cat"], components=JOINED, output=BAKED, bracket={"kind": "sequential"})
    more = {"leaves": ["dan", {"name": "ann2", "model": "ann", "vae": {"from": "anime"}}]}
    response = client.post(f"/api/v1/jobs/{job_id}/leaves", json=more)
    assert response.status_code == 200, response.text
    Worker(settings, store).run_job(job_id)
    nodes = nodes_of(client, job_id)
    assert {node["state"] for node in nodes.values()} == {"done"}, nodes
    assert {name for name, node in nodes.items() if node["kind"] == "compose"} == {
        "mix",
        "cat",
        "dan",
        "ann2",
    }
    assert nodes["average"]["kind"] == "average"
    assert client.post(f"/api/v1/jobs/{job_id}/nodes/03b/extend", json={"trials": 1}).status_code == 200
    Worker(settings, store).run_job(job_id)
    assert nodes_of(client, job_id)["03b"]["trials_done"] == 4

    clone = client.post(f"/api/v1/jobs/{job_id}/clone", json={"search": {"trials": 2}}).json()
    asked = store.job(clone["id"]).request
    assert asked["output"] == {"name": "merged-2", "text_encoder": "keep", "vae": {"from": "anime"}}
    assert {node["kind"] for node in clone["nodes"]} == {"merge", "average", "compose"}


def test_a_model_that_changed_is_not_put_into_a_leaf(
    client: TestClient, settings: Settings, store: Store, models: Path
) -> None:
    vae = models / "lent.safetensors"
    vae.write_bytes((models / "anime.safetensors").read_bytes())
    try:
        job_id = submit(client, ["ann", "bob"], components={"vae": {"from": "lent"}})
        extract(models / "cat.safetensors", ["vae"], vae, metadata={})
        Worker(settings, store).run_job(job_id)
        node = nodes_of(client, job_id)["ann"]
        assert node["state"] == "failed"
        assert "'lent' is not the file it was when the job was queued" in node["reason"]
    finally:
        vae.unlink()


@pytest.fixture
def odd_models(models: Path) -> Iterator[Path]:
    """SD1 and SD2 as headers alone, a VAE with NaN, and a text encoder alone."""
    added = [
        write_header_only(models / "one.safetensors", "sd1"),
        write_header_only(models / "two.safetensors", "sd2"),
        models / "nan.safetensors",
        models / "clip.safetensors",
        models / "lone.safetensors",
    ]
    vae = dict(parts_of(models / "anime.safetensors", "vae"))
    key = next(iter(vae))
    vae[key] = torch.full_like(vae[key], float("nan"))
    save_file(vae, added[2])
    extract(models / "ann.safetensors", ["text_encoder"], added[3], metadata={})
    save_file(
        {k: v for k, v in load_file(models / "ann.safetensors").items() if component_of(k) == "unet"},
        added[4],
    )
    yield models
    for file in added:
        file.unlink()


@pytest.mark.parametrize(
    ("leaves", "changes", "words"),
    [
        (
            [{"name": "x", "unet": {"uniform": ["one", "two"]}}, "ann"],
            {},
            "leaf 'x': the UNet of two.safetensors is that of SD2",
        ),
        (
            [{"name": "x", "model": "one", "text_encoder": {"from": "two"}}, "ann"],
            {},
            "the text encoder of two.safetensors is that of SD2.x (1024 wide), and SD1.x needs its own",
        ),
        (
            ["ann", "bob"],
            {"components": {"text_encoder": {"from": "anime"}}},
            "anime.safetensors has no text encoder, only VAE",
        ),
        (["ann", "bob"], {"components": {"text_encoder": {"uniform": ["ann", "one"]}}}, "needs its own"),
        (
            ["ann", "bob"],
            {"components": {"vae": {"from": "nobody"}}},
            "leaf 'ann': no model 'nobody' in the models folder",
        ),
        (["ann", "bob"], {"components": {"vae": {"from": "../ann"}}}, "is no model name"),
        (["ann", "bob"], {"components": {"vae": {"uniform": []}}}, "at least 2 items"),
        (["ann", "bob"], {"components": {"vae": {"uniform": ["ann", "ann"]}}}, "the mean names 'ann' twice"),
        (["ann", "bob"], {"components": {"unet": {"from": "ann"}}}, "components.unet"),
        (["ann", "bob"], {"components": {"vae": "drop"}}, "keep"),
        (
            ["ann", "bob"],
            {"components": {"vae": {"from": "nan"}}},
            "nan.safetensors is broken: block VAE has",
        ),
        (
            ["ann", "bob"],
            {"output": {"name": "o", "vae": {"from": "nan"}}},
            "output: nan.safetensors is broken",
        ),
        (
            ["ann", "bob"],
            {"output": {"name": "o", "vae": {"from": "clip"}}},
            "output: clip.safetensors has no VAE",
        ),
        (
            ["ann", "bob"],
            {"output": {"name": "o", "text_encoder": {"from": "two"}}},
            "output: the text encoder of two",
        ),
        (["ann", "bob"], {"output": {"name": "o", "unet": {"from": "cat"}}}, "output.file.unet"),
        (
            [{"name": "lone", "vae": {"from": "anime"}}, "bob"],
            {},
            "lone.safetensors has no text encoder, only UNet",
        ),
        ([{"name": "nobody"}, "bob"], {}, "no model 'nobody'"),
        ([{"name": "x", "model": "ann"}, "bob"], {}, "it is model 'ann' as it is"),
        ([{"name": "cat", "unet": {"from": "ann"}}, "bob"], {}, "there is a model of that name"),
        (
            [{"name": "cat", "model": "ann", "vae": {"from": "bob"}}, "bob"],
            {},
            "there is a model of that name",
        ),
        (
            [{"name": "x", "model": "ann", "vae": {"from": "bob"}}, "ann"],
            {},
            "'x' and 'ann' have the same UNet",
        ),
        ([MIXED, MIXED], {}, "mix"),
        ([{"name": "01b", "unet": {"from": "ann"}}, "bob"], {}, "01b"),
        ([{**MIXED, "name": "average"}, "cat", "dan"], {}, "'average' is the name of another node"),
        ([{"name": "a/b", "unet": {"from": "ann"}}, "bob"], {}, "a/b"),
        ([MIXED, "cat"], {"bracket": {"seeding": "distance"}}, "seeding `distance` compares files"),
    ],
)
def test_what_cannot_be_put_together_is_refused_at_submission(
    client: TestClient, odd_models: Path, leaves: list[Any], changes: dict[str, Any], words: str
) -> None:
    del odd_models
    for path in ("/api/v1/jobs", "/api/v1/jobs/plan"):
        response = client.post(path, json=request(leaves, **changes))
        assert response.status_code == 422, response.text
        assert words in response.json()["detail"]
    assert client.get("/api/v1/jobs").json() == []
