"""Distances in CLIP space against the embeddings themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from optimizer.image_distances import image_distances
from scoring.errors import InputError
from tests.tiny_models import write_reward


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scorers") / "clip"
    write_reward(folder)
    return folder


def write_images(folder: Path, names: str, seed: int) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(seed)
    for name in names:
        pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def test_it_is_the_mean_distance_of_images_of_the_same_name(clip: Path, tmp_path: Path) -> None:
    folders = [
        write_images(tmp_path / name, "abc" if name != "z" else "bcd", n) for n, name in enumerate("xyz")
    ]
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{clip}")

    def unit(path: Path) -> torch.Tensor:
        with torch.no_grad():
            row = model.eval().encode_image(preprocess(Image.open(path))[None])[0].double()
        return torch.as_tensor(row / row.square().sum().sqrt())

    found = image_distances(folders, clip)
    for i, one in enumerate(folders):
        for j, other in enumerate(folders):
            apart = [float((unit(one / f"{n}.png") - unit(other / f"{n}.png")).norm()) for n in "bc"]
            assert found[i, j] == pytest.approx(sum(apart) / 2, abs=1e-6)
    assert found[0, 1] > 1e-4


def test_what_cannot_be_compared_is_said(clip: Path, tmp_path: Path) -> None:
    x, y = write_images(tmp_path / "x", "ab", 1), write_images(tmp_path / "y", "cd", 2)
    with pytest.raises(InputError, match="x, y have no image of the same name"):
        image_distances([x, y], clip)
    with pytest.raises(InputError, match="gone is no folder"):
        image_distances([x, tmp_path / "gone"], clip)
    with pytest.raises(InputError, match="is no CLIP in open_clip's layout"):
        image_distances([x, x], tmp_path)
    (y / "a.png").write_text("text")
    with pytest.raises(InputError, match=r"a\.png is no image"):
        image_distances([x, y], clip)
