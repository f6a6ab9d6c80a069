"""Commands for files of other tools: recipe, import, presets, export-mecha, export-trials."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import optuna
import pytest
import torch
from typer.testing import CliRunner

from optimizer.blocks import BLOCKS
from optimizer.checkpoints import write_checkpoint
from optimizer.formats.mbwrt_history import read_history
from optimizer.formats.trials_table import TrialTable
from optimizer.recipes import Parent, Recipe, metadata_of
from scoring.errors import InputError
from service.cli import app
from service.db.store import Store
from service.errors import Conflict, NotFound
from service.trial_table import trial_table
from tests.unit.optimizer.formats.mbwrt_files import history_text, recipe_text, weights_of, write
from tests.unit.service.searched import queue, search_all, settings_in

RUNNER = CliRunner(env={"COLUMNS": "120"})
BEST = weights_of(1)
HISTORY = history_text([(weights_of(0), 0.25), (BEST, 0.5625), (weights_of(0), 0.25)])


def run(*arguments: str | Path) -> str:
    done = RUNNER.invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def merged(folder: Path, architecture: str = "sd1") -> Path:
    """A file with the metadata of a merge of ours, whose parent A is a merge of A1111's."""
    older = {
        "type": "webui",
        "primary_model_hash": "c" * 64,
        "secondary_model_hash": "d" * 64,
        "interp_method": "Weighted sum",
        "multiplier": 0.3,
    }
    recipe = Recipe(
        name="winner",
        a=Parent(name="cats.safetensors", sha256="a" * 64, metadata={"sd_merge_recipe": json.dumps(older)}),
        b=Parent(name="dogs", sha256="b" * 64),
        architecture=architecture,
        prediction_type="epsilon",
        weights={block: place / 26 for place, block in enumerate(BLOCKS)},
    )
    write_checkpoint(folder / "winner.safetensors", {"x": torch.zeros(1)}, metadata_of(recipe))
    return folder / "winner.safetensors"


def test_the_recipe_of_a_merge_is_a_tree(tmp_path: Path) -> None:
    lines = run("recipe", merged(tmp_path)).splitlines()
    assert lines[0] == "winner.safetensors = Block-weighted sum (autombw)"
    assert "IN00 0  IN01 0.0385" in lines[1]
    assert any(line.endswith("TIME_EMBED 0.962  OUT 1") for line in lines)
    assert "├── A  cats.safetensors  aaaaaaaaaa = Weighted sum 0.3 (webui)" in lines
    assert "│   ├── A  sha256 cccccccccc…  cccccccccc" in lines
    assert lines[-1] == "└── B  dogs  bbbbbbbbbb"
    data = json.loads(run("recipe", merged(tmp_path), "--json"))
    assert data["merge"]["weights"]["OUT"] == 1.0
    assert data["ancestors"]["a" * 64]["merge"]["multiplier"] == 0.3


def test_what_is_met_twice_is_shown_once_and_what_is_no_json_is_said(tmp_path: Path) -> None:
    merge = {"type": "webui", "primary_model_hash": "1", "secondary_model_hash": "1", "interp_method": "x"}
    older = {**merge, "primary_model_hash": "2", "secondary_model_hash": "2"}
    models = {"1": {"name": "m1", "sd_merge_recipe": older}, "2": {"name": "m2", "sd_merge_recipe": None}}
    file = tmp_path / "meta.json"
    file.write_text(json.dumps({"sd_merge_recipe": merge, "sd_merge_models": models, "sd_mbwrt_recipe": "{"}))
    lines = run("recipe", file).splitlines()
    assert sum("as above" in line for line in lines) == 1
    assert lines[-1].startswith("notice: sd_mbwrt_recipe is no JSON")


def test_an_import_tells_what_was_understood(tmp_path: Path) -> None:
    history = write(tmp_path / "h.csv", HISTORY)
    recipe = write(tmp_path / "r.txt", recipe_text(BEST, log=BEST))
    said = run("import", history, "--recipe", recipe)
    assert "3, 2 of them with weights of their own" in said
    assert "one.safetensors + two.safetensors" in said
    assert "recipe order" in said
    assert "note: line 4 has the weights of line 2 and its score: it counts once" in said
    assert f"search: {{history: {history}, start: [history]}}" in said
    data = json.loads(run("import", history, "--recipe", recipe, "--json"))
    assert (data["weights"], data["best"], data["recipe"]["seed"]) == (BEST, 1, 1201246259)


def test_an_import_refuses_what_cannot_be_proven(tmp_path: Path) -> None:
    history = write(tmp_path / "h.csv", HISTORY)
    with pytest.raises(InputError, match="of another pair or was changed"):
        run("import", history, "--recipe", write(tmp_path / "r.txt", recipe_text(weights_of(5))))
    with pytest.raises(InputError, match="of another pair or was changed"):
        run("import", history, "--recipe", write(tmp_path / "r.txt", recipe_text(BEST)), "--order", "nat")


def test_presets_are_listed(tmp_path: Path) -> None:
    line = next(line for line in run("presets").splitlines() if line.startswith(" WRAP08"))
    assert line.split() == ["WRAP08", "████", "████", "0", "1"]
    file = write(tmp_path / "presets.tsv", "MINE\t" + ",".join(["0.25"] * 26))
    data = json.loads(run("presets", file, "--json"))
    assert (data[0]["name"], data[0]["base"], data[0]["weights"]["OUT11"]) == ("MINE", 0.25, 0.25)


def test_a_merge_becomes_a_mecha_recipe(tmp_path: Path) -> None:
    pytest.importorskip("sd_mecha")
    out = tmp_path / "winner.mecha"
    said = run("export-mecha", merged(tmp_path), out, "--models", "models")
    assert said.strip() == f"{out}: models/cats.safetensors and models/dogs.safetensors"
    assert 'model "models/dogs.safetensors" model_config="sd1-ldm"' in out.read_text()
    with pytest.raises(InputError, match="sd-mecha has no config for SD2"):
        run("export-mecha", merged(tmp_path, "sd2"), out)
    plain = tmp_path / "plain.safetensors"
    write_checkpoint(plain, {"x": torch.zeros(1)}, {})
    with pytest.raises(InputError, match=r"plain\.safetensors: has no recipe of autombw"):
        run("export-mecha", plain, out)


def test_the_trials_of_a_job_leave_in_every_format(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = queue(store)
    search_all(store, settings_in(tmp_path), job_id)
    monkeypatch.setenv("AUTOMBW_DATA_DIR", str(tmp_path / "data"))
    ended = store.ended_trials(store.nodes(job_id)[0].id)

    said = run("export-trials", job_id, tmp_path / "t.csv")
    assert said.strip() == f"{tmp_path / 't.csv'}: 10 trials of node 01b"
    with (tmp_path / "t.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "search"]
    assert [(int(row["number"]), float(row["score"])) for row in rows] == [(t.number, t.score) for t in ended]
    assert float(rows[4]["OUT05"]) == ended[4].weights["OUT05"]

    run("export-trials", job_id, tmp_path / "t.json", "--node", "01b")
    table = TrialTable.model_validate_json((tmp_path / "t.json").read_text())
    assert (table.a, table.b, table.scorers) == ("left", "right", ["clip", "laion-v2"])
    assert table == trial_table(store, job_id, "01b")
    assert {trial.kind for trial in table.trials} >= {"search", "heldout_winner"}

    run("export-trials", job_id, tmp_path / "history.csv", "--format", "mbwrt")
    assert [trial.score for trial in read_history(tmp_path / "history.csv").trials] == [
        trial.score for trial in ended
    ]

    said = run("export-trials", job_id, tmp_path / "study.db")
    assert f"study {job_id}/01b" in said
    study = optuna.load_study(study_name=f"{job_id}/01b", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert [trial.value for trial in study.trials] == [trial.score for trial in ended]
    assert [trial.params for trial in study.trials] == [trial.weights for trial in ended]


def test_wrong_requests_are_said(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOMBW_DATA_DIR", str(tmp_path / "data"))
    job_id = queue(store, ["one", "two", "three"])
    with pytest.raises(InputError, match="its ending tells no format; give --format"):
        run("export-trials", job_id, tmp_path / "t.txt")
    with pytest.raises(NotFound, match="there is no job"):
        run("export-trials", "gone", tmp_path / "t.csv")
    with pytest.raises(NotFound, match="has no node '09b'"):
        run("export-trials", job_id, tmp_path / "t.csv", "--node", "09b")
    with pytest.raises(Conflict, match="scores one checkpoint without a search; name a merge"):
        run("export-trials", job_id, tmp_path / "t.csv", "--node", "average")
    with pytest.raises(InputError, match="cannot be written: No such file"):
        run("export-trials", job_id, tmp_path / "gone/t.csv")
    with pytest.raises(InputError, match="no search trial that ended yet"):
        run("export-trials", job_id, tmp_path / "t.db")
