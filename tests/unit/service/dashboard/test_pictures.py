"""Small pictures of renders."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from service.dashboard.pictures import small_picture


def render(folder: Path, side: int) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{side:064x}.png"
    Image.new("RGB", (side, side // 2), "teal").save(path)
    return path


def test_a_large_picture_is_made_small_once(tmp_path: Path) -> None:
    original = render(tmp_path, 1024)
    made = small_picture(original, tmp_path / "small", 256)
    with Image.open(made) as image:
        assert (image.size, image.format) == ((256, 128), "WEBP")
    written = made.stat().st_mtime_ns
    assert small_picture(original, tmp_path / "small", 256) == made
    assert made.stat().st_mtime_ns == written
    assert not list((tmp_path / "small").rglob("*.tmp"))


def test_a_small_picture_is_the_original(tmp_path: Path) -> None:
    original = render(tmp_path, 64)
    assert small_picture(original, tmp_path / "small", 256) == original
    assert not (tmp_path / "small").exists()
