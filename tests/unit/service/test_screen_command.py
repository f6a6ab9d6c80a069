"""`autombw screen` on small random models: what it writes and prints, what it refuses, what a kill costs."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from optimizer.components import extract
from scoring.errors import InputError
from service.cli import app
from service.cli.screen import written_out
from tests.unit.optimizer.checkpoint_files import write_header_only

DEFAULTS = {"sampler": "Euler", "steps": 2, "cfg_scale": 3.0, "width": 32, "height": 32}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def probes(tmp_path: Path) -> Path:
    file = tmp_path / "probes.yaml"
    file.write_text(yaml.safe_dump({"defaults": DEFAULTS, "prompts": ["a cat", "a dog"], "seeds": [1, 2]}))
    return file


def invoked(installation: Path, *words: str | Path) -> Result:
    return CliRunner().invoke(app, ["screen", *map(str, words), "--settings", str(installation)])


def screened(installation: Path, *words: str | Path) -> str:
    found = invoked(installation, *words)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.stdout


def refused(installation: Path, *words: str | Path) -> str:
    found = invoked(installation, *words)
    assert isinstance(found.exception, InputError), found.output
    return str(found.exception)


def told(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "ranking.json").read_text())
    return value


def test_lists_are_written_out() -> None:
    words = ["--unets", "a", "b", "--text-encoder", "x", "--out", "o", "--json", "--scorer", "clip", "hps=m"]
    assert written_out(words) == [
        *("--unets", "a", "--unets", "b", "--text-encoder", "x", "--out", "o", "--json"),
        *("--scorer", "clip", "--scorer", "hps=m"),
    ]
    assert written_out(["--unets", "--out", "o", "stray"]) == ["--unets", "--out", "o", "stray"]


def test_unets_with_one_text_encoder(installation: Path, probes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("--unets", "left", "right", "--text-encoder", "left", "--probes", probes, "--out", out)
    printed = screened(installation, *words, "--scorer", "clip=reward", "--cell", "48")
    ranked = told(out)["ranking"]
    assert {one["unet"] for one in ranked} == {"left", "right"}
    assert ranked[0]["score"]["value"] >= ranked[1]["score"]["value"]
    assert ranked[0]["score"] == ranked[0]["scorers"]["clip"], "one scorer counts raw, as in a job"
    table = [line.split() for line in printed.splitlines() if line[:1].isdigit()]
    assert [row[:3] for row in table] == [[str(one["rank"]), one["unet"], "left"] for one in ranked]
    assert "8 images rendered" in printed
    assert Image.open(out / "sheet.png").width > 2 * 48
    assert len(list(out.rglob("images/*/*/*.png"))) == 8
    assert "0 images rendered" in screened(installation, *words, "--scorer", "clip=reward")


def test_every_unet_with_every_text_encoder_and_scorers_of_a_job_file(
    installation: Path, probes: Path, tmp_path: Path
) -> None:
    job = tmp_path / "job.yaml"
    both = [{"scorer": "clip", "model": "reward", "weight": 3}, {"scorer": "sharpness", "reverse": True}]
    job.write_text(yaml.safe_dump({"scorers": both}))
    out = tmp_path / "out"
    words = ("--unets", "left", "right", "--text-encoders", "right", "left", "--probes", probes, "--out", out)
    printed = screened(installation, *words, "--scorers", job, "--vae", "right")
    assert "UNets on the same probes and partners" in printed
    assert "text encoders" in printed
    assert sorted(path.name for path in out.glob("sheet*.png")) == [f"sheet-{i}.png" for i in (1, 2, 3, 4)]
    found = told(out)
    assert (len(found["ranking"]), found["models"]["vae"]["name"]) == (4, "right")
    # Of two scorers, measured over all images, the means are 0: so is that of all scores.
    assert sum(one["score"]["value"] for one in found["ranking"]) == pytest.approx(0, abs=1e-9)
    # The tiny models share their text encoder: the same images, the same scores, and none stands out.
    assert [(one["rank"], one["stands_out"]) for one in found["standings"]["text_encoder"]] == [
        (1, False)
    ] * 2
    raw = json.loads(
        screened(installation, *words, "--scorers", job, "--vae", "right", "--no-normalise", "--json")
    )
    clip, sharpness = (raw["ranking"][0]["scorers"][name]["value"] for name in ("clip", "sharpness"))
    assert raw["ranking"][0]["score"]["value"] == pytest.approx((3 * clip - sharpness) / 4)


def test_pictures_only_without_a_scorer(installation: Path, probes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("--unet", "left", "--text-encoders", "left", "right", "--probes", probes, "--out", out)
    printed = screened(installation, *words)
    assert "rank" not in printed.replace("ranking.json", "")
    assert (out / "sheet.png").exists()
    assert told(out)["ranking"] == []
    with (out / "images.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 8


def test_a_broken_model_is_told_of_and_others_are_ranked(
    installation: Path, probes: Path, tmp_path: Path, tiny_models: Path
) -> None:
    tensors = load_file(tiny_models / "left.safetensors")
    tensors["model.diffusion_model.out.2.bias"][0] = torch.nan
    broken, out = tmp_path / "broken.safetensors", tmp_path / "out"
    save_file(tensors, broken)
    words = ("--unets", broken, "left", "--text-encoder", "left", "--vae", "left", "--probes", probes)
    printed = screened(installation, *words, "--out", out, "--scorer", "clip=reward")
    assert "failed" in printed
    assert "NaN" in printed
    assert [one["unet"] for one in told(out)["ranking"]] == ["left"]
    assert "NaN" in told(out)["failed"][0]["reason"]
    alone = invoked(installation, "--unets", broken, *words[3:], "--out", tmp_path / "alone")
    assert alone.exit_code == 1
    assert "every combination failed" in alone.output


def test_what_is_wrong_is_said_before_anything_is_rendered(
    installation: Path, probes: Path, tmp_path: Path, tiny_models: Path
) -> None:
    sd1, sd2 = (write_header_only(tmp_path / f"{name}.safetensors", name) for name in ("sd1", "sd2"))
    vae, empty, one = (tmp_path / name for name in ("vae.safetensors", "empty.yaml", "one.yaml"))
    extract(tiny_models / "left.safetensors", ["vae"], vae, metadata={})
    empty.write_text("")
    one.write_text(yaml.safe_dump({"defaults": DEFAULTS, "prompts": ["a cat"], "seeds": [1]}))
    nothing = tmp_path / "nothing.yaml"
    nothing.write_text("leaves: [left]\n")
    out, two = tmp_path / "out", ("--scorer", "clip=reward", "sharpness")
    left = ("--unets", "left", "--text-encoders", "left")
    for words, message in (
        (("--unets", sd1, "--text-encoders", sd2, "--probes", probes), "1024 wide"),
        (("--unets", sd1, sd2, "--text-encoders", sd1, "--probes", probes), "one architecture"),
        (("--unets", "left", vae, "--text-encoders", "left", "--probes", probes), "has no UNet"),
        (("--unets", "left", "--text-encoders", vae, "--probes", probes), "has no text encoder"),
        (("--unets", "left", "left", "--text-encoders", "left", "--probes", probes), "named twice"),
        (("--unets", "left", "--text-encoders", "nobody", "--probes", probes), "nobody"),
        ((*left, "--vae", "nobody", "--probes", probes), "nobody"),
        ((*left, "--probes", empty), "empty.yaml"),
        ((*left, "--probes", "nowhere.yaml"), "nowhere.yaml"),
        ((*left, "--probes", probes, "--scorer", "taste"), "unknown scorer 'taste'"),
        ((*left, "--probes", probes, "--scorer", "clip=nowhere"), "nowhere"),
        ((*left, "--probes", probes, "--scorer", "sharpness", "sharpness"), "named twice"),
        ((*left, "--probes", probes, "--scorers", nothing), "scorers:"),
        ((*left, "--probes", one, *two), "--no-normalise"),
        ((*left, "--probes", probes, "--prediction-type", "x0"), "x0"),
    ):
        assert message in refused(installation, *words, "--out", out)
    assert not out.exists()
    assert "is a file" in refused(installation, *left, "--probes", probes, "--out", empty)
    assert invoked(installation, "--unets", "--probes", probes, "--out", out).exit_code == 2


@pytest.mark.slow
def test_a_killed_screening_goes_on_where_it_was(installation: Path, probes: Path, tmp_path: Path) -> None:
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    words = ["--unets", "left", "right", "--text-encoders", "left", "right", "--probes", str(probes)]
    words += ["--scorer", "clip=reward"]
    command = [sys.executable, "-m", "service.cli", "screen", *words, "--settings", str(installation)]
    process = subprocess.Popen([*command, "--out", str(cut)], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list(cut.rglob("images/*/*/*.png")):
        assert process.poll() is None, "it ended before an image was there"
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = {path: path.stat().st_mtime_ns for path in cut.rglob("images/*/*/*.png")}
    assert 0 < len(there) < 16
    printed = screened(installation, *words, "--out", cut)
    assert f"{16 - len(there)} images rendered" in printed
    assert {path: path.stat().st_mtime_ns for path in there} == there
    screened(installation, *words, "--out", whole)
    assert told(cut) == told(whole)
    for path in whole.rglob("*.png"):
        assert (cut / path.relative_to(whole)).read_bytes() == path.read_bytes()
    assert not list(cut.rglob("*.tmp"))
