"""`autombw scorers`: what is said of each, and whether its weights are there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from service.cli import app

RUNNER = CliRunner(env={"COLUMNS": "160"})
REPO = Path(__file__).parents[3]
CAFE = ("config.json", "preprocessor_config.json", "model.safetensors")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty scorers folder beside an empty hub cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("AUTOMBW_SCORERS_DIR", str(tmp_path / "scorers"))
    return tmp_path / "scorers"


def put(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()


def listed() -> dict[str, dict[str, Any]]:
    shown = RUNNER.invoke(app, ["scorers", "list", "--json"])
    assert shown.exit_code == 0, shown.output
    return {row["name"]: row for row in json.loads(shown.stdout)}


def test_json_tells_what_is_there_and_how_to_get_the_rest(folder: Path) -> None:
    put(folder / "cafe-waifu", *CAFE)
    rows = listed()
    assert rows["cafe-waifu"]["there"] is True
    assert rows["cafe-waifu"]["place"] == str(folder / "cafe-waifu")
    assert rows["cafe-aesthetic"]["there"] is False
    assert rows["cafe-aesthetic"]["commands"] == [
        f"hf download cafeai/cafe_aesthetic --local-dir {folder / 'cafe-aesthetic'}"
    ]
    assert rows["sharpness"]["there"] is True
    assert rows["sharpness"]["guard"] is True
    assert rows["image-reward"]["prompts"] is True
    assert rows["image-reward"]["needs"] == ["ImageReward.pt", "med_config.json", "vocab.txt"]
    assert rows["laion-v2"]["number"].startswith("raw, about 1..10")


def test_the_list_names_every_scorer_and_the_commands_of_what_is_missing(folder: Path) -> None:
    put(folder / "cafe-waifu", *CAFE)
    shown = RUNNER.invoke(app, ["scorers", "list"])
    assert shown.exit_code == 0
    marks = {line.split()[0]: line.split()[1] for line in shown.stdout.splitlines() if len(line.split()) > 1}
    assert marks["cafe-waifu"] == marks["sharpness"] == "yes"
    assert marks["cafe-aesthetic"] == "no"
    assert "a guard: watched, never optimised" in shown.stdout
    # whole, however narrow the terminal
    lines = shown.stdout.splitlines()
    assert f"  hf download cafeai/cafe_aesthetic --local-dir {folder / 'cafe-aesthetic'}" in lines
    assert not [line for line in lines if "hf download cafeai/cafe_waifu" in line]


def test_one_scorer_is_shown_with_what_fools_it(folder: Path) -> None:
    shown = RUNNER.invoke(app, ["scorers", "show", "aesthetic-shadow-v2"])
    assert "version 1 gives 0.99 to 80 % noise" in shown.stdout
    assert f"hf download shadowlilac/aesthetic-shadow-v2 --local-dir {folder}" in shown.stdout
    as_json = RUNNER.invoke(app, ["scorers", "show", "aesthetic-shadow-v2", "--json"])
    assert json.loads(as_json.stdout)["label"] == "hq"


def test_a_scorer_without_a_card_is_listed_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "somebody-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[autombw.scorers]\ntheirs = nowhere_at_all:create\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    row = listed()["theirs"]
    assert row["card"] is False
    assert row["there"] is None
    shown = RUNNER.invoke(app, ["scorers", "show", "theirs"])
    assert shown.exit_code == 0
    assert "no card: its package says nothing of it" in shown.stdout


def test_an_unknown_scorer_is_refused_in_one_line() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "service.cli", "scorers", "show", "lain"],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 2
    assert told.stderr.startswith("autombw: unknown scorer 'lain'; known scorers: aes-b32-v0")
    assert "Traceback" not in told.stderr
