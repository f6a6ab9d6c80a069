"""Files of strangers: bounded, never run, and what they say never acts."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from optimizer.checkpoints.models import resolve_model
from optimizer.checkpoints.reading import read_header
from scoring.data_text import parse_json, parse_yaml
from scoring.display import cell, printable
from scoring.errors import InputError
from scoring.probes import read_probe_file, read_probes
from service.folders import inside
from tests.fuzz.mutations import png_of

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "its aliases counted"),
        ("&a [*a]", "stands within what it names"),
        ("[" * 200 + "]" * 200, "nested deeper than 100"),
        ("x: 0x" + "f" * 9_000, "digits"),
        ("!!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("a" * 2_000_001, "are read at most"),
    ],
)
def test_yaml_stands_for_little(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_yaml(text)


def test_aliases_that_stand_for_little_are_read() -> None:
    assert parse_yaml("- &one {a: 1}\n- {<<: *one, b: 2}") == [{"a": 1}, {"a": 1, "b": 2}]


def test_deep_json_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


def test_a_product_of_lists_does_not_become_a_million_probes() -> None:
    with pytest.raises(InputError, match="1,000,000 probes"):
        read_probes({"prompts": ["a"] * 1_000, "seeds": list(range(1_000))}, "p")


def test_a_picture_of_four_hundred_million_pixels_is_not_decoded(tmp_path: Path) -> None:
    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_of([(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1_000_000))), (b"IEND", b"")]))
    with pytest.raises(InputError, match=r"bomb\.png"):
        read_probe_file(bomb)


def _file(folder: Path, header: str, data: bytes = b"") -> Path:
    path = folder / "m.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + data)
    return path


@pytest.mark.parametrize(
    "header",
    [
        '{"a":{"dtype":"F32","shape":[-1,-1],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}',
        '{"a":{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,4]}}',
    ],
)
def test_a_header_that_lies_is_refused(header: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"m\.safetensors"):
        read_header(_file(tmp_path, header, bytes(4)))


def test_a_header_of_a_hundred_megabytes_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.write((100_000_000).to_bytes(8, "little") + b"{")
        file.truncate(100_000_100)
    with pytest.raises(InputError, match="are read"):
        read_header(path)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a\0b", "x" * 5_000, "é" * 200, "\ud800", "", ".hidden", "a\\b", "C:x"]
)
def test_no_name_leaves_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        resolve_model(tmp_path, name)
    if name.startswith(("..", "/")) or "\0" in name or len(name) > 1_000 or name == "\ud800":
        with pytest.raises(InputError, match="probes"):
            inside(name, tmp_path, "probes")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "secret.safetensors").write_bytes(b"x")
    (tmp_path / "models" / "m.safetensors").symlink_to(tmp_path / "secret.safetensors")
    with pytest.raises(InputError, match="link"):
        resolve_model(tmp_path / "models", "m")


def test_what_acts_on_a_terminal_or_in_a_spreadsheet_is_text() -> None:
    assert printable("a\x1b[2Jb\nc\u202e") == "a\\x1b[2Jb\\nc\\u202e"
    assert cell("=HYPERLINK(1)") == "'=HYPERLINK(1)"
    assert cell(-1.5) == -1.5
