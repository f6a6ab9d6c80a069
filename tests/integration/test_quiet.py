"""What a worker writes to stderr is a log: no library draws progress bars into it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from transformers import CLIPTextConfig, CLIPTextModel

from tests.integration.conftest import Cli
from tests.tiny_models import job
from tests.unit.scoring.test_scorers_classification import save_vit

pytestmark = pytest.mark.slow

BAR = re.compile(r"\d+%\||it/s|s/it|\r")
PLUGIN = """
from transformers import CLIPTextModel

class Loaded:
    name, differentiable = "loaded", False

    def score(self, images, prompts):
        return images.mean(dim=(1, 2, 3))

def create(spec, device):
    CLIPTextModel.from_pretrained(spec.model, local_files_only=True)
    return Loaded()
"""


def test_a_job_draws_no_bar(cli: Cli, tmp_path: Path, tiny_scorers: Path) -> None:
    scorers = tmp_path / "scorers"
    shutil.copytree(tiny_scorers / "reward", scorers / "reward")
    save_vit(scorers / "looks")
    # Somebody else's scorer, that loads its model as transformers' own pages show it.
    small = CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    CLIPTextModel(small).save_pretrained(scorers / "text")
    plugin = tmp_path / "plugin"
    (plugin / "loaded-1.dist-info").mkdir(parents=True)
    (plugin / "loaded.py").write_text(PLUGIN)
    (plugin / "loaded-1.dist-info" / "METADATA").write_text("Name: loaded\nVersion: 1\n")
    entry = "[autombw.scorers]\nloaded = loaded:create\n"
    (plugin / "loaded-1.dist-info" / "entry_points.txt").write_text(entry)
    cli.environment["PYTHONPATH"] += f":{plugin}"
    cli.environment["AUTOMBW_SCORERS_DIR"] = str(scorers)
    request = job(
        scorers=[
            {"scorer": "clip", "model": "reward"},
            {"scorer": "image-classifier", "model": "looks", "label": "hq"},
            {"scorer": "loaded", "model": "text"},
        ]
    )
    done = cli.run("run", cli.job_file(request), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["state"] == "done"
    assert not BAR.search(done.stderr), done.stderr
