"""Infotexts in image files."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scoring.errors import InputError
from scoring.probes import Hires, Probe, read_probe_file, to_infotext
from scoring.probes.images import infotext_of_image, labelled, png_text

PROBES = [
    Probe(prompt="a cat\nBREAK, (a hat:1.1)", negative_prompt="a dog", seed=1, hires=Hires()),
    Probe(prompt="猫, é", seed=2),
    Probe(prompt="", seed=3),
]


@pytest.mark.parametrize("probe", PROBES)
def test_a_picture_carries_its_probe(probe: Probe, tmp_path: Path) -> None:
    image = labelled(Image.new("RGB", (8, 8)), probe)
    image.save(tmp_path / "x.png", pnginfo=png_text(image))
    assert read_probe_file(tmp_path / "x.png").probes == (probe,)


def test_the_chunk_is_that_of_a1111() -> None:
    """`parameters` as tEXt where the text is latin-1, else as iTXt: read byte by byte."""
    for probe, kind in ((PROBES[0], b"tEXt"), (PROBES[1], b"iTXt")):
        image = labelled(Image.new("RGB", (8, 8)), probe)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", pnginfo=png_text(image))
        body = dict(_chunks(buffer.getvalue()))[kind]
        keyword, text = body.split(b"\0", 1)
        assert keyword == b"parameters"
        if kind == b"iTXt":
            text = text.removeprefix(b"\0\0\0\0")  # not compressed, no language, no translated keyword
        assert text.decode("latin-1" if kind == b"tEXt" else "utf-8") == to_infotext(probe)


def test_a_picture_without_a_probe_is_saved_without_a_text() -> None:
    assert png_text(Image.new("RGB", (8, 8))) is None


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt"])
def test_every_kind_of_text_chunk_is_read(kind: str, tmp_path: Path) -> None:
    chunks = PngInfo()
    text = to_infotext(PROBES[0])
    if kind == "iTXt":
        chunks.add_itxt("parameters", text, zip=True)
    else:
        chunks.add_text("parameters", text, zip=kind == "zTXt")
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=chunks)
    assert infotext_of_image(tmp_path / "x.png") == text


def test_a_chunk_behind_the_picture_is_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    png, end = buffer.getvalue()[:-12], buffer.getvalue()[-12:]
    body = b"tEXt" + b"parameters\0" + to_infotext(PROBES[0]).encode("latin-1")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "x.png").write_bytes(png + chunk + end)
    assert infotext_of_image(tmp_path / "x.png") == to_infotext(PROBES[0])


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_the_comment_of_other_images_is_read(suffix: str, tmp_path: Path) -> None:
    text = to_infotext(PROBES[1])
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf-16-be")
    Image.new("RGB", (8, 8)).save(tmp_path / f"x{suffix}", exif=exif)
    assert infotext_of_image(tmp_path / f"x{suffix}") == text


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_an_image_without_an_infotext_is_named(suffix: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / f"x{suffix}")
    with pytest.raises(InputError, match=rf"x\{suffix}: no infotext in it"):
        read_probe_file(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_what_is_no_image_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(InputError, match=r"x\.png: can't be read as an image"):
        read_probe_file(tmp_path / "x.png")


def test_a_picture_that_was_cut_is_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 99).save(buffer, "PNG")
    (tmp_path / "x.png").write_bytes(buffer.getvalue()[:1000])
    with pytest.raises(InputError, match=r"x\.png: "):
        read_probe_file(tmp_path / "x.png")


def _chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    found, position = [], 8
    while position < len(png):
        (length,) = struct.unpack(">I", png[position : position + 4])
        found.append((png[position + 4 : position + 8], png[position + 8 : position + 8 + length]))
        position += 12 + length
    return found
