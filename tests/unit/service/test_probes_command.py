"""`autombw probes show`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from scoring.errors import InputError
from scoring.probes import Probe
from scoring.probes.images import labelled, png_text
from service.cli import app

INFOTEXT = """(a cat:0), [[b]]
Negative prompt: c
Steps: 30, Sampler: Euler, CFG scale: 0, Seed: {seed}, Size: 1024x576, Model hash: a85153fd84, Model: mix, \
Denoising strength: 0.7, Clip skip: 2, FreeU Stages: "[{{\\"backbone_factor\\": 1.1}}, {{}}]", \
FreeU Schedule: "0.0, 1.0, 0.0", FreeU Version: 2, Hires upscale: 1.5, Hires upscaler: Latent, \
Hires prompt: more of it, TI hashes: "easy: 12", Frobnication: 3, Version: v1.7.0
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


def _shown(*args: str) -> str:
    result = CliRunner().invoke(app, ["probes", "show", *args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return "\n".join(line.rstrip() for line in result.output.splitlines())


def test_one_probe_is_shown_with_all_it_says() -> None:
    Path("x.txt").write_text(INFOTEXT.format(seed=5))
    assert (
        _shown("x.txt")
        == """\
x.txt: 1 probe

prompt           (a cat:0), [[b]]
negative_prompt  c
seed             5
sampler          Euler
steps            30
cfg_scale        0 (the negative prompt alone)
size             1024 x 576
clip_skip        2
rng              NV
freeu            version 2, start 0, stop 1, transition 0
  stage 1        backbone_factor 1.1
  stage 2        changes nothing
hires            upscaler Latent, scale 1.5, steps as the first pass, denoising_strength 0.7
  prompt         more of it
off              schedule, eta, ensd, variation_seed, variation_strength, cfg_rescale, thresholding

notes
  - x.txt: names no RNG: A1111's default, GPU, which is NV here
  - x.txt: not understood, and so not applied: Frobnication: 3
  - made in A1111 with Model hash: a85153fd84, Model: mix, TI hashes: easy: 12, Version: v1.7.0
  - clip_skip counts as in A1111: a job of SD2 or SDXL models makes it 1
  - a job needs the embedding easy in its folder"""
    )


def test_what_probes_share_is_shown_once() -> None:
    Path("p.json").write_text('{"prompt": "a", "seed": 7, "sampler_name": "Euler", "n_iter": 3, "steps": 9}')
    shown = _shown("p.json")
    assert shown.count("Euler") == shown.count("512 x 512") == 1
    assert "probe   seed\n1       7\n2       8\n3       9\n" in shown
    Path("p.yaml").write_text("[{prompt: a, seed: 1}, {prompt: b, seed: 1}]")
    assert "probe 1\nprompt           a\n\nprobe 2\nprompt           b" in _shown("p.yaml")


def test_images_and_files_of_the_probes_folder_are_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = labelled(Image.new("RGB", (8, 8)), Probe(prompt="a hat", seed=1))
    (tmp_path / "there").mkdir()
    image.save(tmp_path / "there/x.png", pnginfo=png_text(image))
    monkeypatch.setenv("AUTOMBW_PROBES_DIR", str(tmp_path / "there"))
    assert "a hat" in _shown("x.png")


def test_wildcards_are_shown_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "hat.txt").write_text("cap\n")
    monkeypatch.setenv("AUTOMBW_WILDCARDS_DIR", str(tmp_path))
    Path("p.yaml").write_text("{prompt: a __hat__, seed: 1, wildcards: random}")
    assert "prompt           a cap" in _shown("p.yaml")


def test_json_holds_everything() -> None:
    Path("x.txt").write_text(INFOTEXT.format(seed=5))
    data = json.loads(_shown("x.txt", "--json"))
    (probe,) = [Probe.model_validate(probe) for probe in data["probes"]]
    assert (probe.seed, probe.clip_skip, probe.rng) == (5, 2, "NV")
    assert data["provenance"][0]["Model"] == "mix"
    assert data["embeddings"] == ["easy"]
    assert {"source": "x.txt", "text": "not understood, and so not applied: Frobnication: 3"} in data["notes"]


def test_what_cannot_be_read_is_an_error() -> None:
    with pytest.raises(InputError, match=r"none\.txt: no such file"):
        _shown("none.txt")
