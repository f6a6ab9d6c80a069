"""What can be done with a job that really ran: judged anew, exported, collected, made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from optimizer.recipes import read_recipe
from scoring.errors import InputError
from service.afterwards.export import Exporter, ExportRequest
from service.afterwards.gc import CollectRequest, collect
from service.afterwards.rescore import Rescorer, RescoreRequest
from service.afterwards.retally import RetallyRequest, retally
from service.api.app import create_app
from service.catalog import Catalog
from service.cli import app
from service.db.states import JobState, TrialKind, TrialState
from service.db.store import Store
from service.errors import Conflict, NotFound
from service.images import path_of
from service.jobs import JobRequest
from service.planning import validate_job
from service.report.page import report_html
from service.settings import Settings, load_settings
from service.worker import Worker
from tests.installed import install_scorers
from tests.tiny_models import job, write_models, write_reward

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A settings file of an installation with three models."""
    folder = tmp_path_factory.mktemp("afterwards")
    write_models(folder / "models", ("one", "two", "three"))
    write_reward(folder / "scorers" / "reward")
    file = folder / "autombw.toml"
    file.write_text('models_dir = "models"\nscorers_dir = "scorers"\ndata_dir = "data"\ndevice = "cpu"\n')
    return file


@pytest.fixture(scope="module")
def settings(installed: Path) -> Settings:
    return load_settings(installed)


@pytest.fixture(scope="module")
def store(settings: Settings) -> Iterator[Store]:
    store = Store(settings.database_url)
    yield store
    store.close()


@pytest.fixture(scope="module")
def tree(settings: Settings, store: Store) -> str:
    """A job of three leaves that is done: 01b, 02b and the average."""
    return finished(settings, store, leaves=["one", "two", "three"], output="tree")


def queue(settings: Settings, store: Store, **changes: object) -> str:
    request = JobRequest.model_validate(job(**changes))
    return store.create_job(validate_job(request, settings, Catalog(settings.models_dir))).id


def finished(settings: Settings, store: Store, **changes: object) -> str:
    job_id = queue(settings, store, **changes)
    Worker(settings, store).run_job(job_id)
    assert store.job(job_id).state is JobState.DONE, [node.reason for node in store.nodes(job_id)]
    return job_id


def exporter(settings: Settings, store: Store, job_id: str) -> Exporter:
    return Exporter(store, settings, Catalog(settings.models_dir), job_id)


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_retally_by_the_jobs_own_tally_gives_the_scores_of_the_search(store: Store, tree: str) -> None:
    for found, node in zip(retally(store, tree, RetallyRequest()).nodes, store.nodes(tree), strict=False):
        scores = {trial.number: trial.score for trial in store.trials(node.id, kinds=[TrialKind.SEARCH])}
        assert found.counted == len(scores) == 4
        assert {trial.number: trial.after for trial in found.best} == scores


def test_a_trial_that_did_not_win_is_exported_with_its_recipe(
    settings: Settings, store: Store, tree: str
) -> None:
    node = store.nodes(tree)[0]
    written = exporter(settings, store, tree).export(ExportRequest(node="01b", trial=2))
    out = settings.outputs_dir / "tree-01b-trial-2.safetensors"
    assert (Path(written.path), written.sha256) == (out, sha256_of(out))
    with safe_open(out, "pt") as file:
        recipe = read_recipe(file.metadata())
    assert recipe is not None
    uniform = store.find_trial(node.id, TrialKind.SEARCH, 2)
    assert uniform is not None
    assert (recipe.weights, recipe.scores["search/trial 2"]) == (uniform.weights, uniform.score)
    merged = load_file(out)
    parents = [load_file(settings.models_dir / f"{name}.safetensors") for name in ("one", "two")]
    key = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
    mean = (parents[0][key].float() + parents[1][key].float()) / 2
    assert merged[key].equal(mean.half())
    assert store.events(tree, limit=10_000)[-1].data["name"] == "tree-01b-trial-2"


def test_the_winner_exported_under_another_name_differs_in_its_recipe_alone(
    settings: Settings, store: Store, tree: str
) -> None:
    exporter(settings, store, tree).export(ExportRequest(output="again"))
    again, first = (load_file(settings.outputs_dir / f"{name}.safetensors") for name in ("again", "tree"))
    assert again.keys() == first.keys()
    assert all(tensor.equal(first[key]) for key, tensor in again.items())


def test_what_cannot_be_exported_is_said(settings: Settings, store: Store, tree: str) -> None:
    export = exporter(settings, store, tree).export
    before = sha256_of(settings.outputs_dir / "tree.safetensors")
    for request, kind, words in (
        ({"trial": 99}, NotFound, "node 02b of job .* has no trial 99"),
        ({"node": "average", "trial": 0}, Conflict, "average is no merge"),
        ({"trial": 1, "output": "tree"}, Conflict, "'tree' is the name of a job's result"),
        ({"trial": 1, "output": "a/b"}, InputError, "output: 'a/b' cannot be used as a name"),
        ({}, Conflict, "tree.safetensors exists already"),
    ):
        with pytest.raises(kind, match=words):
            export(ExportRequest.model_validate(request))
    (settings.outputs_dir / "mine.safetensors").write_bytes(b"mine")
    with pytest.raises(Conflict, match=r"mine\.safetensors exists already; give another"):
        export(ExportRequest(trial=1, output="mine"))
    assert (settings.outputs_dir / "mine.safetensors").read_bytes() == b"mine"
    assert sha256_of(settings.outputs_dir / "tree.safetensors") == before


def test_a_file_that_is_gone_is_made_again_to_the_bit_and_its_inputs_before_it(
    settings: Settings, store: Store, tree: str
) -> None:
    outputs = [settings.outputs_dir / f"{name}.safetensors" for name in ("tree", "tree-01b", "tree-average")]
    before = [sha256_of(path) for path in outputs]
    for path in outputs:
        path.unlink()
    written = exporter(settings, store, tree).export(ExportRequest())
    assert (written.sha256, written.made_again) == (before[0], ["tree-01b"])
    exporter(settings, store, tree).export(ExportRequest(node="average"))
    assert [sha256_of(path) for path in outputs] == before


def test_what_was_collected_is_made_again_to_the_bit_and_the_job_goes_on_with_it(
    settings: Settings, store: Store
) -> None:
    """Intermediate files go, and come back for a node that is searched further."""
    job_id = finished(settings, store, leaves=["one", "two", "three"], output="lean", average=False)
    first = settings.outputs_dir / "lean-01b.safetensors"
    before = sha256_of(first)
    keep = {"jobs": [job_id], "images": "best-1", "checkpoints": "final"}
    collected = collect(store, settings, CollectRequest.model_validate({**keep, "dry_run": False}))
    assert ([made.name for made in collected.checkpoints], first.exists()) == (["lean-01b"], False)
    store.extend_node(job_id, "02b", 1)
    Worker(settings, store).run_job(job_id)
    (reason,) = [node.reason for node in store.nodes(job_id) if node.reason]
    assert f"is gone; make it again with `autombw export {job_id} --node 01b`" in reason
    exporter(settings, store, job_id).export(ExportRequest(node="01b"))
    assert sha256_of(first) == before
    store.retry_job(job_id)
    Worker(settings, store).run_job(job_id)
    assert store.job(job_id).state is JobState.DONE
    assert len(store.trials(store.nodes(job_id)[1].id, kinds=[TrialKind.SEARCH])) == 5


@pytest.fixture
def scorers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with two scorers: how red an image is, and one that fails on its third image."""
    source = (
        "class Red:\n"
        "    differentiable = True\n"
        "    def __init__(self, name, at_most):\n"
        "        self.name, self.left = name, at_most\n"
        "    def score(self, images, prompts):\n"
        "        self.left -= len(images)\n"
        "        if self.left < 0:\n"
        "            raise RuntimeError('out of breath')\n"
        "        return images[:, 0].mean(dim=(1, 2))\n"
        "def red(spec, device):\n"
        "    return Red(spec.scorer, 10**6)\n"
        "def faint(spec, device):\n"
        "    return Red(spec.scorer, 2)\n"
    )
    install_scorers(tmp_path, monkeypatch, "reds", {"red": "red", "faint": "faint"}, source)


@pytest.mark.usefixtures("scorers")
def test_a_new_scorer_judges_the_stored_images_and_can_be_weighed(
    settings: Settings, store: Store, installed: Path
) -> None:
    job_id = finished(settings, store, leaves=["one", "two", "three"], output="rescored")
    before = {node.id: store.trials(node.id) for node in store.nodes(job_id)}
    with pytest.raises(InputError, match="no image of this job has a number of 'red'"):
        retally(store, job_id, RetallyRequest(weights={"red": 1}))
    told = json.loads(run(installed, "rescore", job_id, "--scorer", "red", "--node", "01b", "--json"))
    assert [(each["node"], each["added"]) for each in told["nodes"]] == [("01b", 4 * 2 + 4)]
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        answer = client.post(f"/api/v1/jobs/{job_id}/rescore", json={"scorers": [{"scorer": "red"}]})
        assert answer.status_code == 200, answer.text
        assert [each["added"] for each in answer.json()["nodes"]] == [0, 4 * 2 + 4, 2 + 1]
        outside = {"scorers": [{"scorer": "clip", "model": "/etc"}]}
        assert client.post(f"/api/v1/jobs/{job_id}/rescore", json=outside).status_code == 422
    for node in store.nodes(job_id):
        assert store.trials(node.id) == before[node.id], "the job's own scores stay"
        for trial_id, renders in store.node_renders(node.id).items():
            for render in renders:
                with Image.open(path_of(settings.renders_dir, render.sha256)) as image:
                    red = np.asarray(image, float)[:, :, 0].mean() / 255
                assert render.scores["red"] == pytest.approx(red, rel=1e-5), trial_id
    (alone,) = retally(store, job_id, RetallyRequest(node="02b", weights={"clip": 0, "red": 1})).nodes
    assert (alone.counted, alone.weights) == (4, {"red": 1.0})
    assert "<td>red</td>" in report_html(store, settings, job_id)


@pytest.mark.usefixtures("scorers")
def test_a_rescore_skips_what_is_gone_and_goes_on_where_it_was(settings: Settings, store: Store) -> None:
    search = {"sampler": "random", "trials": 6}
    job_id = finished(settings, store, leaves=["one", "two"], output="interrupted", search=search)
    (node,) = store.nodes(job_id)
    request = {"jobs": [job_id], "images": "best-1", "dry_run": False}
    given_up = collect(store, settings, CollectRequest.model_validate(request)).renders
    lost = store.renders(store.trials(node.id)[0].id)[0]
    path_of(settings.renders_dir, lost.sha256).unlink()

    def rescorer(name: str) -> Rescorer:
        wanted = RescoreRequest.model_validate({"scorers": [{"scorer": name}]})
        return Rescorer(store, settings, job_id, wanted, local=True)

    with pytest.raises(InputError, match="scorer 'faint' failed: out of breath; what was judged before is"):
        rescorer("faint").run()
    todo = rescorer("red").todo()
    judged: list[int] = []
    (found,) = rescorer("red").run(judged.append).nodes
    lacking = sum(
        render.sha256 == lost.sha256 for each in store.node_renders(node.id).values() for render in each
    )
    assert (found.added, found.collected, found.missing) == (todo - lacking, given_up, lacking)
    assert sum(judged) == todo == 6 * 2 + 4 - given_up
    (again,) = rescorer("red").run().nodes
    assert (again.added, again.missing) == (0, lacking)


@pytest.mark.usefixtures("scorers")
def test_a_trial_that_was_interrupted_is_resumed_after_a_rescore(settings: Settings, store: Store) -> None:
    sizes = [
        {"prompt": "a cat", "seed": 1, "sampler": "Euler", "steps": 2, "width": width, "height": 32}
        for width in (32, 64)
    ]
    changes = {"leaves": ["one", "two"], "probes": sizes, "heldout": None}
    undisturbed = finished(settings, store, output="undisturbed", **changes)
    job_id = queue(settings, store, output="disturbed", **changes)
    (node,) = store.nodes(job_id)

    class StopsInTheSecondTrial(Worker):
        def _stopped(self) -> bool:
            return store.render_totals(node.id)[0] >= 3 or super()._stopped()

    StopsInTheSecondTrial(settings, store).run_job(job_id)
    assert [trial.state for trial in store.trials(node.id)] == [TrialState.DONE, TrialState.OPEN]
    wanted = RescoreRequest.model_validate({"scorers": [{"scorer": "red"}]})
    (found,) = Rescorer(store, settings, job_id, wanted, local=True).run().nodes
    assert found.added == 2, "the open trial is its worker's"
    Worker(settings, store).run_job(job_id)
    assert store.job(job_id).state is JobState.DONE
    scores = [[t.score for t in store.trials(store.nodes(each)[0].id)] for each in (undisturbed, job_id)]
    assert scores[0] == scores[1]


def test_judging_and_exporting_over_http(settings: Settings, store: Store, tree: str) -> None:
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        answer = client.post(f"/api/v1/jobs/{tree}/export", json={"trial": 3, "output": "over http"})
        assert answer.status_code == 201, answer.text
        assert (
            client.post(f"/api/v1/jobs/{tree}/export", json={"trial": 3, "output": "over http"}).status_code
            == 409
        )
        judged = client.post(f"/api/v1/jobs/{tree}/retally", json={"tally": "median"}).json()
        assert [node["node"] for node in judged["nodes"]] == ["01b", "02b"]
        assert client.post(f"/api/v1/jobs/{tree}/retally", json={"tally": "mean"}).status_code == 422
        page = client.get(f"/api/v1/jobs/{tree}/report", params={"per_hour": 2})
        assert page.headers["content-type"].startswith("text/html")
        assert "final model above" in page.text
        assert client.get("/api/v1/jobs/nope/report").status_code == 404
        assert client.get(f"/api/v1/jobs/{tree}/report?per_hour=-2").status_code == 422
        told = client.post(
            "/api/v1/gc", json={"jobs": [tree], "images": "none", "checkpoints": "final"}
        ).json()
        assert (told["dry_run"], told["renders"] > 0, len(told["checkpoints"])) == (True, True, 2)
        assert client.post("/api/v1/gc", json={"images": "best"}).status_code == 422
    with safe_open(answer.json()["path"], "pt") as file:
        assert file.metadata()["modelspec.title"] == "over http"


def test_the_commands(installed: Path, tree: str, settings: Settings, tmp_path: Path) -> None:
    run(installed, "report", tree, "--out", str(tmp_path / "report.html"))
    assert (tmp_path / "report.html").read_text().count("data:image/webp") >= 4
    with pytest.raises(InputError, match=r"nowhere/report\.html: cannot be written: No such file"):
        run(installed, "report", tree, "--out", str(tmp_path / "nowhere" / "report.html"))
    judged = run(installed, "retally", tree, "--tally", "median", "--node", "01b", "--json")
    assert json.loads(judged)["nodes"][0]["tally"] == "median"
    assert "rank correlation 1.000" in run(installed, "retally", tree, "--weight", "clip=2")
    with pytest.raises(InputError, match="give SCORER=WEIGHT"):
        run(installed, "retally", tree, "--weight", "clip")
    told = run(installed, "gc", tree, "--images", "best-1", "--checkpoints", "final", "--dry-run")
    assert "MB would be freed; leave out --dry-run to do it" in told
    assert f"tree-01b: autombw export {tree} --node 01b makes it again" in told.replace("\n", " ")
    with pytest.raises(InputError, match="keep all, none, or such as best-5"):
        run(installed, "gc", "--images", "best")
    written = run(installed, "export", tree, "--node", "01b", "--trial", "0", "--output", "by hand")
    assert str(settings.outputs_dir / "by hand.safetensors") in written.replace("\n", "")


def run(installed: Path, *arguments: str) -> str:
    """What a command prints; raises what it would end with."""
    result = CliRunner().invoke(app, [*arguments, "--settings", str(installed)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output
