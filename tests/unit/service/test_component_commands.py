"""`autombw components` and `autombw uniform` on small random models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import spearmanr
from typer.testing import CliRunner, Result

from optimizer.checkpoints.parts import component_of
from scoring.errors import InputError
from service.cli import app
from tests.tiny_models import write_reward
from tests.unit.optimizer.checkpoint_files import write_random


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    for seed, name in enumerate(("one", "two")):
        write_random(folder / f"{name}.safetensors", seed, torch.float16)
    monkeypatch.setenv("AUTOMBW_MODELS_DIR", str(folder))
    monkeypatch.setenv("AUTOMBW_DATA_DIR", str(tmp_path / "data"))
    return folder


def autombw(*words: str | Path) -> Result:
    found = CliRunner().invoke(app, [str(word) for word in words])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found


def test_a_vae_is_extracted_listed_and_joined_again(models: Path, tmp_path: Path) -> None:
    vae, out = tmp_path / "vae.safetensors", tmp_path / "joined.safetensors"
    autombw("components", "extract", "two", "--components", "vae", "--dtype", "fp32", "-o", vae)
    (row,) = json.loads(autombw("components", "list", vae, "--json").output)
    assert (row["component"], row["dtypes"], row["fits"]) == ("vae", ["float32"], ["emoji"])
    words = ("--unet", "one", "--text-encoder", "two", "--vae", vae, "--dtype", "fp16")
    autombw("components", "join", *words, "-o", out)
    found, one, two = (
        load_file(path) for path in (out, models / "one.safetensors", models / "two.safetensors")
    )
    assert found.keys() == one.keys()
    for key, tensor in found.items():
        assert torch.equal(tensor, (one if component_of(key) == "unet" else two)[key]), key


def test_swap_convert_and_prune_write_what_they_say(models: Path, tmp_path: Path) -> None:
    autombw("components", "swap", "one", "text_encoder", "two", "-o", tmp_path / "s.safetensors")
    autombw("components", "convert", "one", "--dtype", "bf16", "-o", tmp_path / "c.safetensors")
    autombw("components", "prune", "one", "-o", tmp_path / "p.safetensors")
    one, two = (load_file(models / f"{name}.safetensors") for name in ("one", "two"))
    swapped, converted, pruned = (load_file(tmp_path / f"{name}.safetensors") for name in "scp")
    for key, tensor in one.items():
        assert torch.equal(swapped[key], two[key] if component_of(key) == "text_encoder" else tensor)
        assert torch.equal(converted[key], tensor.bfloat16())
        assert torch.equal(pruned[key], tensor)


def test_uniform_averages_what_it_is_told(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "mean.safetensors"
    words = ("one", "two", "--components", "unet,text_encoder", "--dtype", "fp32", "-o", out)
    assert "the mean of 2 models (unet, text_encoder)" in autombw("uniform", *words).output
    found, one, two = (
        load_file(path) for path in (out, models / "one.safetensors", models / "two.safetensors")
    )
    for key, tensor in found.items():
        both = (one[key].float() + two[key].float()) / 2
        assert torch.equal(tensor, one[key].float() if component_of(key) == "vae" else both), key


def test_a_file_that_is_there_is_not_written_over(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "mean.safetensors"
    out.write_text("mine")
    with pytest.raises(InputError, match="is there already; choose another name, or --force"):
        autombw("uniform", "one", "two", "-o", out)
    assert out.read_text() == "mine"
    autombw("uniform", "one", "two", "-o", out, "--force")
    with pytest.raises(InputError, match=r"would be no \.safetensors file"):
        autombw("uniform", "one", "two", "-o", tmp_path / "mean.ckpt")


def test_wrong_names_are_said(models: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model 'three' in the models folder"):
        autombw("uniform", "one", "three", "-o", tmp_path / "o.safetensors")
    with pytest.raises(InputError, match="'clip' is no component"):
        autombw("uniform", "one", "two", "--components", "unet,clip", "-o", tmp_path / "o.safetensors")
    with pytest.raises(InputError, match="two or more checkpoints are needed, not 1"):
        autombw("uniform", "one", "-o", tmp_path / "o.safetensors")


# --- distances ---


def test_distances_are_printed_drawn_and_correlated(models: Path, tmp_path: Path) -> None:
    write_random(models / "three.safetensors", 5, torch.float16)
    autombw("uniform", "one", "two", "-o", models / "mean.safetensors")
    names, matrix = ["three", "two", "one", "mean"], [[0, 3, 3, 2], [3, 0, 2, 1], [3, 2, 0, 1], [2, 1, 1, 0]]
    images, drawn = tmp_path / "images.json", tmp_path / "map.png"
    images.write_text(json.dumps({"models": names, "distances": matrix}))
    words = ("distances", "one", "two", "three", "mean")
    found = json.loads(autombw(*words, "--images", images, "--map", drawn, "--json").output)
    assert found["models"] == ["one", "two", "three", "mean"]
    one, two = (load_file(models / f"{name}.safetensors") for name in ("one", "two"))
    key = "model.diffusion_model.time_embed.0.weight"
    keys = [key, *(f"model.diffusion_model.time_embed.{n}" for n in ("0.bias", "2.weight", "2.bias"))]
    square = sum(float((one[k].double() - two[k].double()).square().sum()) for k in keys)
    assert found["parts"]["TIME_EMBED"]["l2"][0][1] == pytest.approx(square**0.5)
    assert found["parts"]["text_encoder"]["cosine"][0][3] == 1.0
    # The models' own order: one, two, three, mean.
    upper = np.triu_indices(4, k=1)
    theirs = np.array([[0, 2, 3, 1], [2, 0, 3, 1], [3, 3, 0, 2], [1, 1, 2, 0]])[upper]
    rho = spearmanr(np.array(found["parts"]["unet"]["l2"])[upper], theirs).statistic
    assert found["images"]["spearman"] == pytest.approx(rho)
    assert 0 < found["images"]["p_value"] <= 1
    assert drawn.stat().st_size > 10_000
    assert "TIME_EMBED" in autombw(*words[:3], "--by", "block").output
    assert "text_encoder" in autombw(*words[:3]).output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "holds no distances"),
        ('{"models": ["one"], "distances": [[0]]}', "says nothing of two"),
        ('{"models": ["one", "two"], "distances": [[0, 1]]}', r"has a matrix of \(1, 2\)"),
    ],
)
def test_a_matrix_that_is_not_these_models_is_refused(
    models: Path, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "images.json").write_text(text)
    with pytest.raises(InputError, match=message):
        autombw("distances", "one", "two", "--images", tmp_path / "images.json")


def test_images_of_a_folder_are_compared_by_a_clip(models: Path, tmp_path: Path) -> None:
    write_random(models / "three.safetensors", 5, torch.float16)
    clip, renders = tmp_path / "clip", tmp_path / "renders"
    write_reward(clip)
    for number, name in enumerate(("one", "two", "three")):
        (renders / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), (80 * number, 200, 90)).save(renders / name / "probe.png")
    words = ("distances", "one", "two", "three", "--images", renders)
    with pytest.raises(InputError, match="say with --clip which CLIP"):
        autombw(*words)
    found = json.loads(autombw(*words, "--clip", clip, "--json").output)["images"]
    assert -1 <= found["spearman"] <= 1
    assert found["permutations"] == 9999
