"""Images lie under their content's hash, complete or not at all."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from PIL import Image

from scoring.probes import Probe, to_infotext
from scoring.probes.images import labelled
from service.errors import NotFound
from service.images import image_path, store_images


def test_the_same_picture_is_kept_once_and_comes_back_as_it_was(tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    first, second, third = store_images(tmp_path, [red, blue, red])
    assert first == third != second
    assert len(list(tmp_path.rglob("*.png"))) == 2
    with Image.open(image_path(tmp_path, first)) as back:
        assert back.tobytes() == red.tobytes()


def test_a_picture_carries_the_infotext_of_its_probe_and_nothing_else(tmp_path: Path) -> None:
    probe = Probe(prompt="a cat", seed=1, width=8, height=8)
    (first,) = store_images(tmp_path, [labelled(Image.new("RGB", (8, 8), "red"), probe)])
    (again,) = store_images(tmp_path, [labelled(Image.new("RGB", (8, 8), "red"), probe)])
    (other,) = store_images(
        tmp_path,
        [labelled(Image.new("RGB", (8, 8), "red"), probe.model_copy(update={"seed": 2}))],
    )
    assert first == again != other
    with Image.open(image_path(tmp_path, first)) as back:
        assert back.info == {"parameters": to_infotext(probe)}
        assert back.tobytes() == Image.new("RGB", (8, 8), "red").tobytes()


def test_nothing_is_left_when_it_cannot_be_written(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), "red")
    sha256 = store_images(tmp_path / "elsewhere", [image])[0]
    (tmp_path / sha256[:2]).write_text("a file where the folder should be")
    with pytest.raises(OSError, match=sha256[:2]):
        store_images(tmp_path, [image])
    assert not [path for path in tmp_path.rglob("*.tmp") if path.is_file()]


def test_a_picture_that_is_there_already_is_young_again(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), "red")
    (sha256,) = store_images(tmp_path, [image])
    path = image_path(tmp_path, sha256)
    os.utime(path, (1.0, 1.0))
    store_images(tmp_path, [image])
    assert time.time() - path.stat().st_mtime < 60


@pytest.mark.parametrize("name", ["../../etc/passwd", "ab" * 32, "AB" * 32, ""])
def test_only_a_stored_hash_names_an_image(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        image_path(tmp_path, name)
