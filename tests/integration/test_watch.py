"""Several scorers and the watch on jobs that really run: by a worker, over HTTP, on the page, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from rich.console import Console
from safetensors.torch import load_file, save_file

from examples.emoji.assemble import assemble, assemble_reward
from scoring.reward import image_scores, measure, tally
from service.api.app import create_app
from service.cli.live import render_job
from service.db.states import NodeKind, TrialKind
from service.db.store import Store
from service.errors import Interrupted
from service.jobs import NodePlan
from service.report.page import report_html
from service.settings import Settings, load_settings
from service.worker import Worker
from tests.installed import install_scorers
from tests.tiny_models import job

UNET = "model.diffusion_model."
PROBES = {
    "defaults": {"sampler": "Euler", "steps": 4, "cfg_scale": 3.0, "width": 32, "height": 32},
    "prompts": ["fox, 3d style", "pizza, noto style", "tiger, twemoji style", "sushi, flat style"],
    "seeds": [1, 2],
}
HELDOUT_PROMPTS = ["cat, 3d style", "ghost, noto style", "lime, flat style", "sunflower, twemoji style"]
HELDOUT = {**PROBES, "prompts": HELDOUT_PROMPTS, "seeds": [3, 4, 5]}


@pytest.fixture
def blurry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with a scorer that likes blur: how straight it runs from pixel to pixel."""
    source = (
        "class Blurry:\n"
        "    differentiable = True\n"
        "    def __init__(self, spec, device):\n"
        "        self.name = spec.scorer\n"
        "    def score(self, images, prompts):\n"
        "        bends = [images.diff(n=2, dim=dim).square().mean(dim=(1, 2, 3)) for dim in (-1, -2)]\n"
        "        return -sum(bends).float()\n"
    )
    install_scorers(tmp_path, monkeypatch, "blur", {"blurry": "Blurry"}, source)


def run(settings: Settings, store: Store, client: TestClient, **changes: Any) -> dict[str, Any]:
    """A job, submitted over HTTP and run to its end by a worker: its progress."""
    answer = client.post("/api/v1/jobs", json=job(**changes))
    assert answer.status_code == 201, answer.text
    Worker(settings, store).run_job(answer.json()["id"])
    progress: dict[str, Any] = client.get(f"/api/v1/jobs/{answer.json()['id']}").json()
    assert progress["state"] == "done", progress
    return progress


class TestZoo:
    """Two checkpoints, each with one block that blurs: a search that likes blur finds both."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        assemble(tmp_path / "models", ["base"])
        assemble_reward(tmp_path / "scorers" / "reward")
        base = tmp_path / "models" / "emoji-base.safetensors"
        damage = {"left": ("output_blocks.11.0.skip", 0.3), "right": ("output_blocks.10.0.", 0.5)}
        for name, (blurs, factor) in damage.items():
            tensors = {
                key: tensor * factor if key.startswith(UNET + blurs) else tensor
                for key, tensor in load_file(base).items()
            }
            save_file(tensors, base.with_name(f"{name}.safetensors"))
        file = tmp_path / "autombw.toml"
        file.write_text('models_dir = "models"\nscorers_dir = "scorers"\ndata_dir = "data"\ndevice = "cpu"\n')
        return load_settings(file)

    @pytest.mark.slow
    @pytest.mark.usefixtures("blurry")
    def test_a_score_that_rises_while_sharpness_falls_is_told_everywhere(
        self, settings: Settings, store: Store
    ) -> None:
        with TestClient(create_app(settings)) as client:
            progress = run(
                settings,
                store,
                client,
                probes=PROBES,
                heldout=HELDOUT,
                scorers=[{"scorer": "blurry"}, {"scorer": "clip", "model": "reward", "weight": 0.1}],
                watch=[{"scorer": "sharpness"}],
                search={"sampler": "tpe", "trials": 16, "seed": 1},
            )
            node = progress["nodes"][0]
            trials = client.get(f"/api/v1/jobs/{progress['id']}/trials?node=01b").json()
        assert [each["name"] for each in progress["nodes"]] == ["01b", "reference"]
        assert node["watched"] == ["sharpness"]
        assert all(set(trial["means"]) == {"blurry", "clip", "sharpness"} for trial in trials)

        best = trials[node["best"]["number"]]
        assert best["score"] > max(trial["score"] for trial in trials[:3])
        assert best["means"]["sharpness"] < 0.9 * min(trial["means"]["sharpness"] for trial in trials[:3])
        (said,) = best["warnings"]
        assert "score rose by" in said
        assert " while sharpness fell by " in said
        assert said.endswith("look at the images")
        warned = [trial for trial in trials if trial["warnings"]]
        assert node["trials_warned"] == len(warned)
        assert all(trial["number"] >= 3 for trial in warned), "a baseline is not compared with itself"
        assert node["warnings"][0] == f"the best trial, {best['number']}: {said}"
        assert any("on held-out probes: score rose by" in text for text in node["warnings"])
        assert node["notes"][-len(node["warnings"]) :] == node["warnings"]

        console = Console(record=True, width=400)
        console.print(render_job(progress))
        assert said in console.export_text()
        assert said in report_html(store, settings, progress["id"]).replace("&#39;", "'")

    @pytest.mark.slow
    def test_an_honest_score_that_rises_is_not_suspected(self, settings: Settings, store: Store) -> None:
        with TestClient(create_app(settings)) as client:
            progress = run(
                settings,
                store,
                client,
                leaves=["left", "emoji-base"],
                probes=PROBES,
                heldout=None,
                scorers=[{"scorer": "clip", "model": "reward"}],
                search={"sampler": "random", "trials": 8, "seed": 1},
            )
        (node,) = progress["nodes"]
        assert node["watched"] == ["sharpness", "colourfulness"]
        assert (node["trials_warned"], node["warnings"]) == (0, [])


class Restless(Worker):
    """A worker that leaves after every few denoising steps, as one that is told to."""

    checks = 0

    def _check(self, *given: Any) -> None:
        self.checks += 1
        if self.checks % 9 == 0:
            raise Interrupted
        super()._check(*given)


@pytest.mark.slow
@pytest.mark.usefixtures("blurry")
def test_normalised_scores_are_the_same_to_the_bit_however_often_a_worker_leaves(
    installation: Path, tmp_path: Path
) -> None:
    found = []
    for name, kind in (("calm", Worker), ("restless", Restless)):
        file = tmp_path / f"{name}.toml"
        file.write_text(installation.read_text().replace(f"{tmp_path / 'data'}", f"{tmp_path / name}"))
        settings = load_settings(file)
        store = Store(settings.database_url)
        with TestClient(create_app(settings)) as client:
            wanted = job(
                scorers=[{"scorer": "clip", "model": "reward"}, {"scorer": "blurry", "weight": 2}],
                search={"sampler": "tpe", "trials": 6, "seed": 5},
            )
            job_id = client.post("/api/v1/jobs", json=wanted).json()["id"]
        kind(settings, store).run_job(job_id)
        nodes = store.nodes(job_id)
        assert [node.state.value for node in nodes] == ["done", "done"], [node.reason for node in nodes]
        found.append(
            [
                (trial.kind, trial.number, trial.weights, trial.score, trial.means, trial.warnings)
                for node in nodes
                for trial in sorted(store.trials(node.id), key=lambda trial: (trial.kind, trial.number))
            ]
        )
        check_scores(store, job_id)
        store.close()
    assert found[0] == found[1]


def check_scores(store: Store, job_id: str) -> None:
    """Every trial's score is that of its stored raw numbers by the reference's spread."""
    nodes = {node.kind: node for node in store.nodes(job_id)}
    plan = NodePlan.model_validate(nodes[NodeKind.MERGE].plan)
    (reference,) = store.node_renders(nodes[NodeKind.REFERENCE].id).values()
    scale = measure([render.scores for render in reference], plan.scorers)
    trials = store.trials(nodes[NodeKind.MERGE].id)
    assert {trial.kind for trial in trials} == set(TrialKind) - {TrialKind.DRAFT}
    for trial in trials:
        raw = [render.scores for render in store.renders(trial.id)]
        assert trial.score == tally("arithmetic", image_scores(raw, plan.scorers, scale))
    first = store.find_trial(nodes[NodeKind.MERGE].id, TrialKind.SEARCH, 0)
    assert first is not None
    assert first.score == pytest.approx(0, abs=1e-9), "A is the first leaf: the reference"


@pytest.mark.usefixtures("blurry")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"scorers": [{"scorer": "sharpness"}]},
            "scorers: 'sharpness' is a guard: it is only watched",
        ),
        (
            {"watch": [{"scorer": "clip", "model": "reward"}]},
            "watch: 'clip' is among `scorers` too; who is optimised is no second opinion",
        ),
        ({"watch": [{"scorer": "nobody"}]}, "watch: unknown scorer 'nobody'; known: "),
        ({"watch": [{"scorer": "blurry"}, {"scorer": "blurry"}]}, "watch: 'blurry' is named twice"),
        (
            {"scorers": [{"scorer": "blurry"}, {"scorer": "clip", "model": "reward"}], "tally": "geometric"},
            "tally: 'geometric' takes no scores below 0, and normalised ones of several scorers lie on both "
            "sides of it; take arithmetic, cubic, median, min, max, mid-range, or normalise: false",
        ),
        (
            {
                "scorers": [{"scorer": "blurry"}, {"scorer": "clip", "model": "reward"}],
                "probes": [{"prompt": "a cat", "seed": 1, "width": 32, "height": 32}],
            },
            "scorers: several are normalised by their spread over the probes, and there is one probe",
        ),
    ],
)
def test_what_cannot_be_watched_or_normalised_is_said(
    installation: Path, changes: dict[str, Any], words: str
) -> None:
    with TestClient(create_app(load_settings(installation))) as client:
        answer = client.post("/api/v1/jobs", json=job(**changes))
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


@pytest.mark.usefixtures("blurry")
def test_raw_means_and_nobody_watching_can_be_asked_for(installation: Path) -> None:
    settings = load_settings(installation)
    store = Store(settings.database_url)
    with TestClient(create_app(settings)) as client:
        several = [{"scorer": "blurry"}, {"scorer": "clip", "model": "reward"}]
        progress = run(settings, store, client, scorers=several, normalise=False, watch=[], heldout=None)
    (node,) = progress["nodes"]
    assert node["watched"] == []
    plan = NodePlan.model_validate(store.nodes(progress["id"])[0].plan)
    for trial in store.trials(store.nodes(progress["id"])[0].id):
        raw = [render.scores for render in store.renders(trial.id)]
        assert [set(scores) for scores in raw] == [{"blurry", "clip"}] * 2
        assert trial.score == tally("arithmetic", image_scores(raw, plan.scorers))
    store.close()
