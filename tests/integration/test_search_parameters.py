"""Jobs whose search is constrained and chooses a text encoder: from the request to the file's tensors."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from optimizer.blocks import UNET_PREFIX, block_of
from optimizer.checkpoints.parts import PREFIXES, component_of
from optimizer.formats.trials_table import trials_csv
from optimizer.recipes import read_recipe
from optimizer.trial import Evaluator
from service.api.app import create_app
from service.db.records import TrialRecord
from service.db.states import JobState, TrialKind
from service.db.store import Store
from service.jobs import NodePlan
from service.settings import Settings, load_settings
from service.trial_table import trial_table
from service.worker import Worker
from tests.tiny_models import job
from tests.unit.optimizer.checkpoint_files import write_header_only

TIED = [f"IN0{number}" for number in range(6)]
SPACE: dict[str, Any] = {
    "freeze": {"TIME_EMBED": 0, "OUT": 0.25},
    "bounds": {"M00": [0.1, 0.4]},
    "ties": ["IN00-IN05"],
    "elements": [
        {"blocks": "IN00-IN05", "tensors": "attn2", "bounds": [0.6, 0.9]},
        "OUT03-OUT05:ff.net norm:0.75",
        "OUT04:norm3:0.5",
    ],
}
SEARCH = {
    "sampler": "tpe",
    "trials": 7,
    "seed": 3,
    "space": SPACE,
    "choices": {"text_encoder": ["b", "muse"]},
}
DEFAULTS = {"sampler": "Euler", "steps": 2, "cfg_scale": 3.0, "width": 32, "height": 32}


@pytest.fixture(scope="module")
def models(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`left`, `right` and `muse`, each with its own text encoder; a bare UNet; the header of an SD1.5."""
    folder = tmp_path_factory.mktemp("encoders")
    for number, name in enumerate(("left", "right", "muse")):
        tensors = load_file(tiny_models / ("right.safetensors" if name == "muse" else f"{name}.safetensors"))
        generator = torch.Generator().manual_seed(number)
        moved = {
            key: tensor + 0.05 * torch.randn(tensor.shape, generator=generator).half()
            if component_of(key) == "text_encoder" and tensor.is_floating_point()
            else tensor
            for key, tensor in tensors.items()
        }
        save_file(moved, folder / f"{name}.safetensors")
    unet = {k: t for k, t in load_file(folder / "right.safetensors").items() if component_of(k) == "unet"}
    save_file(unet, folder / "bare.safetensors")
    shutil.copy(folder / "muse.safetensors", folder / "twin.safetensors")
    write_header_only(folder / "sd1.safetensors", "sd1")
    return folder


@pytest.fixture
def settings(installation: Path, models: Path) -> Settings:
    return load_settings(installation, models_dir=models)


def submit(client: TestClient, **changes: Any) -> str:
    response = client.post("/api/v1/jobs", json=job(**{"search": SEARCH, **changes}))
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


@pytest.fixture(scope="module")
def refusing(
    models: Path, tiny_scorers: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """A service that is asked for bad jobs alone: nothing is ever queued."""
    folders = {"models_dir": models, "scorers_dir": tiny_scorers, "data_dir": tmp_path_factory.mktemp("site")}
    with TestClient(
        create_app(load_settings(device="cpu", **folders)), base_url="http://localhost"
    ) as client:
        yield client


def searched(store: Store, job_id: str) -> list[TrialRecord]:
    return store.trials(store.nodes(job_id)[0].id, kinds=[TrialKind.SEARCH])


def alpha_of(key: str, weights: dict[str, float]) -> float:
    """What SPACE says of a tensor, in other words than the program's."""
    block = str(block_of(key))
    if block in TIED and "attn2" in key:
        return weights["IN01/attn2"]
    if block == "OUT04" and "norm3" in key:
        return 0.5
    if block in ("OUT03", "OUT04", "OUT05") and ("ff.net" in key or "norm" in key):
        return 0.75
    return {"TIME_EMBED": 0.0, "OUT": 0.25}.get(block, weights[block])


def check_file(file: Path, trial: TrialRecord, models: Path) -> None:
    """The file is the merge that the trial's weights and choices say, tensor by tensor."""
    assert trial.choices is not None
    written, a, b = (
        load_file(path) for path in (file, models / "left.safetensors", models / "right.safetensors")
    )
    encoder = {"a": a, "b": b, "muse": load_file(models / "muse.safetensors")}[trial.choices["text_encoder"]]
    for key, tensor in written.items():
        if key.startswith(UNET_PREFIX):
            merged = torch.lerp(a[key].float(), b[key].float(), alpha_of(key, trial.weights)).half()
            assert torch.equal(tensor, merged), key
        else:
            source = encoder if key.startswith(PREFIXES["text_encoder"]) else a
            assert torch.equal(tensor, source[key]), key


def test_every_constraint_holds_from_the_request_to_the_file(
    client: TestClient, store: Store, settings: Settings, models: Path
) -> None:
    probes = {"defaults": DEFAULTS, "prompts": ["a cat"], "seeds": [1]}
    job_id = submit(client, probes=probes, heldout=None)
    Worker(settings, store).run_job(job_id)
    assert store.job(job_id).state is JobState.DONE, store.nodes(job_id)[0].reason

    baselines, proposed = searched(store, job_id)[:3], searched(store, job_id)[3:]
    assert [trial.choices for trial in baselines] == [{"text_encoder": own} for own in ("a", "b", "uniform")]
    assert not any(trial.may_win for trial in baselines)
    for trial in proposed:
        weights = trial.weights
        assert (weights["TIME_EMBED"], weights["OUT"]) == (0.0, 0.25)
        assert len({weights[block] for block in TIED}) == 1
        assert 0.1 <= weights["M00"] <= 0.4
        # Blocks 0 and 3 have no attention.
        attentive = [f"IN0{number}/attn2" for number in (1, 2, 4, 5)]
        assert [name for name in weights if name.endswith("attn2")] == attentive
        assert len({weights[name] for name in attentive}) == 1
        assert 0.6 <= weights["IN01/attn2"] <= 0.9
        assert (weights["OUT03/norm"], weights["OUT05/ff.net"], weights["OUT04/norm3"]) == (0.75, 0.75, 0.5)
        assert trial.choices is not None
        assert trial.choices["text_encoder"] in ("b", "muse")
    assert len({json.dumps(trial.choices) for trial in proposed}) == 2, "both were tried"

    winner = store.best_trial(store.nodes(job_id)[0].id)
    assert winner is not None
    merged = settings.outputs_dir / "merged.safetensors"
    check_file(merged, winner, models)
    (other,) = [trial for trial in proposed if trial.choices != winner.choices][:1]
    body = {"trial": other.number, "output": "other"}
    assert client.post(f"/api/v1/jobs/{job_id}/export", json=body).status_code == 201
    check_file(settings.outputs_dir / "other.safetensors", other, models)

    with safe_open(merged, framework="pt") as file:
        metadata = file.metadata()
    recipe = read_recipe(metadata)
    assert recipe is not None
    assert recipe.weights["IN01/attn2"] == winner.weights["IN01/attn2"]
    assert winner.choices is not None
    option = {"b": "right", "muse": "muse"}[winner.choices["text_encoder"]]
    assert recipe.text_encoder_from == f"{option}.safetensors"
    assert "sd_mbwrt_recipe" not in metadata, "it would say another merge"

    content = merged.read_bytes()
    merged.unlink()
    assert client.post(f"/api/v1/jobs/{job_id}/export", json={}).status_code == 201
    assert merged.read_bytes() == content, "the recipe says all of it"

    shown = client.get(f"/api/v1/jobs/{job_id}/trials").json()
    assert shown[winner.number]["choices"] == winner.choices
    header, *rows = trials_csv(trial_table(store, job_id, None)).splitlines()
    assert "text_encoder" in header
    assert "IN01/attn2" in header
    assert any(row.startswith("2,search,done,") and ",uniform," in row for row in rows)


@pytest.mark.slow
def test_baselines_have_the_text_encoders_of_what_they_are(
    client: TestClient, store: Store, settings: Settings, models: Path
) -> None:
    probes = {"defaults": DEFAULTS, "prompts": ["a cat"], "seeds": [1]}
    search = {"sampler": "random", "trials": 3, "choices": {"text_encoder": ["a", "b", "uniform"]}}
    job_id = submit(client, search=search, probes=probes, heldout=probes)
    Worker(settings, store).run_job(job_id)
    (node,) = store.nodes(job_id)
    plan = NodePlan.model_validate(node.plan)
    for number, name in enumerate(("left", "right")):
        alone = Evaluator(models / f"{name}.safetensors", plan.judges)
        ((rendered,),) = alone.evaluate(plan.probes)
        trial = searched(store, job_id)[number]
        heldout = store.find_trial(node.id, (TrialKind.HELDOUT_A, TrialKind.HELDOUT_B)[number], 0)
        assert heldout is not None
        assert trial.score == heldout.score == rendered.scores["clip"], name
    uniform = searched(store, job_id)[2]
    body = {"trial": 2, "output": "mean"}
    assert client.post(f"/api/v1/jobs/{job_id}/export", json=body).status_code == 201
    written, a, b = (
        load_file(path)
        for path in (
            settings.outputs_dir / "mean.safetensors",
            models / "left.safetensors",
            models / "right.safetensors",
        )
    )
    for key in (key for key in written if component_of(key) == "text_encoder" and a[key].is_floating_point()):
        assert torch.equal(written[key], ((a[key].float() + b[key].float()) / 2).half()), key
    ((rendered,),) = Evaluator(settings.outputs_dir / "mean.safetensors", plan.judges).evaluate(plan.probes)
    assert uniform.score == pytest.approx(rendered.scores["clip"], abs=2e-3), (
        "as the search saw it, in float32"
    )


@pytest.mark.slow
def test_a_killed_search_chooses_what_an_undisturbed_one_chooses(
    client: TestClient, store: Store, settings: Settings
) -> None:
    undisturbed, disturbed = submit(client), submit(client, output="disturbed")
    Worker(settings, store).run_job(undisturbed)
    node = store.nodes(disturbed)[0].id

    class StopsWithinATrial(Worker):
        def _stopped(self) -> bool:
            return store.render_totals(node)[0] >= 9 or super()._stopped()

    StopsWithinATrial(settings, store).run_job(disturbed)
    assert len(searched(store, disturbed)) < 7
    Worker(settings, store).run_job(disturbed)
    one, other = (
        [(trial.weights, trial.choices, trial.score) for trial in searched(store, each)]
        for each in (undisturbed, disturbed)
    )
    assert one == other


@pytest.mark.slow
def test_the_next_merge_gets_the_chosen_text_encoder(
    client: TestClient, store: Store, settings: Settings, models: Path
) -> None:
    search = {"sampler": "random", "trials": 4, "choices": {"text_encoder": ["right", "uniform"]}}
    nodes = {"02b": {"search": {"choices": {"text_encoder": None}}}}
    job_id = submit(
        client,
        search=search,
        nodes=nodes,
        leaves=["left", "right", "muse"],
        bracket={"kind": "sequential"},
        heldout=None,
        average=False,
    )
    Worker(settings, store).run_job(job_id)
    first, second = store.nodes(job_id)
    assert store.job(job_id).state is JobState.DONE, second.reason
    made, final = (load_file(settings.outputs_dir / f"{node.output}.safetensors") for node in (first, second))
    left = load_file(models / "left.safetensors")
    encoder = [key for key in made if component_of(key) == "text_encoder"]
    assert all(torch.equal(made[key], final[key]) for key in encoder)
    assert not all(torch.equal(made[key], left[key]) for key in encoder)
    assert all(trial.choices is None for trial in store.trials(second.id))


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"space": {"elements": ["IN00-IN05:attn9:0.3"]}}, "no tensor of IN00-IN05 has 'attn9' in its name"),
        ({"space": {"elements": ["IN00:attn2:0.3"]}}, "no tensor of IN00 has 'attn2'"),
        ({"space": {"elements": ["IN13:attn2:0.3"]}}, "unknown block 'IN13'"),
        ({"space": {"elements": ["IN04:attn2:1.5"]}}, r"the ratio is '1\.5'; it must lie from 0"),
        ({"space": {"elements": [{"tensors": "attn2", "alpha": 1.5}]}}, "alpha: .*less than or equal to 1"),
        ({"space": {"elements": ["NOT IN04:attn2:0.5"]}}, "NOT is not understood"),
        ({"space": {"elements": ["IN04:attn2:0.5", "IN04:attn2"]}}, "IN04/attn2 is named twice"),
        ({"space": {"elements": ["IN04:attn2:0.5", "IN04:attn:0.1"]}}, "write that one last"),
        ({"choices": {"text_encoder": ["a", "gone"]}}, r"text_encoder: 'gone': .*no model 'gone'"),
        ({"choices": {"text_encoder": ["a", "sd1"]}}, r"'sd1': .*(768|SD1)"),
        ({"choices": {"text_encoder": ["a", "bare"]}}, "'bare': .*text encoder"),
        ({"choices": {"text_encoder": ["a"]}}, "a alone is no choice; name two or more"),
        ({"choices": {"text_encoder": ["a", "a"]}}, "'a' is named twice"),
        ({"choices": {"text_encoder": ["muse", "twin"]}}, "'muse' and 'twin' are one file; name it once"),
        ({"choices": {"text_encoder": ["a", "left"]}}, "'left' is a of node 01b; name it once"),
        ({"choices": {"text_encoder": ["a", "b"]}, "sampler": "cmaes"}, "cmaes .* can't make `choices`"),
        ({"choices": {"text_encoder": ["a", "b"]}, "sampler": "gradient"}, "gradient .* take gp or tpe"),
        ({"choices": {"text_encoder": ["muse", "left"]}, "trials": 3}, "give more trials"),
        ({"choices": {"vae": ["a", "b"]}}, "vae: Extra inputs"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_bad_parameters_are_refused(search: dict[str, Any], words: str, refusing: TestClient) -> None:
    response = refusing.post("/api/v1/jobs", json=job(search={"sampler": "tpe", "trials": 5, **search}))
    assert response.status_code == 422, response.text
    assert re.search(words, response.json()["detail"], re.DOTALL), response.json()["detail"]
    assert refusing.get("/api/v1/jobs").json() == [], "nothing is queued"


def test_a_leaf_without_a_text_encoder_and_one_that_is_baked_in_are_no_choice(refusing: TestClient) -> None:
    search = {"sampler": "tpe", "trials": 5, "choices": {"text_encoder": ["a", "b"]}}
    bare = refusing.post("/api/v1/jobs", json=job(search=search, leaves=["left", "bare"]))
    assert (bare.status_code, "bare" in bare.json()["detail"]) == (422, True)
    output = {"name": "merged", "text_encoder": {"from": "muse"}}
    baked = refusing.post("/api/v1/jobs", json=job(search=search, output=output))
    assert baked.status_code == 422
    assert "another would take its place in the file" in baked.json()["detail"]
