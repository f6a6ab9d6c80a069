"""`make demo`, as a user runs it, only shorter; then its file in other people's hands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from optimizer.checkpoints import write_pipeline_config
from optimizer.recipes import read_recipe

pytestmark = pytest.mark.slow
TRIALS = 5
LEAVES = {"emoji-animals", "emoji-food", "emoji-faces", "emoji-outdoors"}


def run_demo(out: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "examples.emoji.demo", "--out", str(out), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kill -9 of the worker" in done.stdout
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("demo") / "demo"
    return out, run_demo(out)


def test_it_reports_leaves_uniform_and_winner_on_both_kinds_of_probes(
    demo: tuple[Path, dict[str, Any]],
) -> None:
    out, result = demo
    assert {"search", "heldout", "checkpoint", "trials", "seconds", "nodes"} <= set(result)
    for phase in ("search", "heldout"):
        assert set(result[phase]) == {"a", "b", "uniform", "winner"}
        assert all(-1 < score < 1 for score in result[phase].values())
    heldout = sorted((leaf["heldout"] for leaf in result["leaves"].values()), reverse=True)
    assert [result["heldout"]["a"], result["heldout"]["b"]] == heldout[:2]
    assert (out / "result.png").stat().st_size > 10_000


def test_every_node_of_the_tree_is_searched_and_none_is_below_its_parents(
    demo: tuple[Path, dict[str, Any]],
) -> None:
    _, result = demo
    merges = {node["name"]: node for node in result["nodes"] if node["kind"] == "merge"}
    assert set(result["leaves"]) == LEAVES
    assert [(node["a"], node["b"]) for node in merges.values()] == [
        ("emoji-animals", "emoji-food"),
        ("emoji-faces", "emoji-outdoors"),
        ("01b", "02b"),
    ]
    assert all(node["trials_done"] == TRIALS and node["gain"] >= 0 for node in merges.values())
    assert result["trials"] == 3 * TRIALS + 1, "and the uniform merge of all leaves"


def test_a_second_run_gives_the_same_numbers(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, first = demo
    second = run_demo(tmp_path / "again")
    for part in ("search", "heldout", "leaves"):
        assert second[part] == first[part]
    assert [node["scores"] for node in second["nodes"]] == [node["scores"] for node in first["nodes"]]


def test_diffusers_loads_the_checkpoint_from_its_single_file(
    demo: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    write_pipeline_config("emoji", tmp_path / "config")
    pipeline = StableDiffusionPipeline.from_single_file(
        demo[1]["checkpoint"], config=str(tmp_path / "config"), local_files_only=True
    )
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    image = pipeline(
        "pizza, noto style",
        height=32,
        width=32,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images[0]
    assert image.shape == (32, 32, 3)
    assert image.std() > 0.02


def test_the_checkpoint_carries_its_recipe(demo: tuple[Path, dict[str, Any]]) -> None:
    out, result = demo
    with safe_open(result["checkpoint"], framework="pt") as file:
        metadata = file.metadata()
    recipe = read_recipe(metadata)
    assert recipe is not None
    assert json.loads((out / "recipe.json").read_text())["weights"] == recipe.weights
    assert {"sd_merge_recipe", "sd_merge_models", "sd_mbwrt_recipe"} <= set(metadata)
