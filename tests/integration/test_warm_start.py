"""A job goes on from a history of auto-MBW-rt: the trials inform it, and only what is rendered counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optimizer.formats.mbwrt_history import read_history
from service.db.states import TrialKind
from service.db.store import Store
from service.jobs import NodePlan
from tests.integration.conftest import Cli
from tests.tiny_models import job
from tests.unit.optimizer.formats.mbwrt_files import history_text, weights_of, write

pytestmark = pytest.mark.slow


def test_a_job_goes_on_from_a_history(cli: Cli, tmp_path: Path) -> None:
    rows = [(weights_of(shift), 1000.0 + shift) for shift in range(12)]
    history = write(tmp_path / "h.csv", history_text(rows))
    search = {
        "sampler": "tpe",
        "trials": 6,
        "seed": 5,
        "history": str(history),
        "start": ["history", "WRAP08"],
    }
    file = cli.job_file(job(search=search))
    done = cli.run("run", file)
    assert done.returncode == 0, done.stderr

    store = Store(f"sqlite:///{tmp_path / 'data' / 'autombw.sqlite3'}")
    try:
        (found,) = store.jobs()
        (node,) = store.nodes(found.id)
        trials = store.trials(node.id, kinds=[TrialKind.SEARCH])
        # The imports are in the plan, not among the trials.
        assert [trial.number for trial in trials] == list(range(6))
        assert len(NodePlan.model_validate(node.plan).search.imported) == 12
        best_imported = read_history(history).best.weights
        assert trials[3].weights == {block: best_imported[block] for block in trials[3].weights}
        assert trials[4].weights["IN00"] == trials[4].weights["TIME_EMBED"] == 1.0
        assert trials[4].weights["M00"] == 0.0
        best = store.best_trial(node.id)
        assert best is not None
        assert best.score is not None
        assert best.score < 1000, "an imported score never wins"
        assert node.score is not None
    finally:
        store.close()

    exported = cli.run("export-trials", found.id, str(tmp_path / "t.json"))
    assert exported.returncode == 0, exported.stderr
    assert len(json.loads((tmp_path / "t.json").read_text())["trials"]) == 6 + 4
    shown = cli.run("recipe", str(next((tmp_path / "data").rglob("merged.safetensors"))))
    assert shown.stdout.startswith("merged.safetensors = Block-weighted sum (autombw)")
