"""Files made wrong in the ways that matter to a parser: anywhere, and where their structure is.

Everything is drawn from a `random.Random`: a number makes the same file again, and hypothesis can give one.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

SIGNATURE = b"\x89PNG\r\n\x1a\n"
NUMBERS = (
    *(0, 1, -1, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**30, int("9" * 4000)),
    *(0.1, -0.0, 1e308, 1e-320, float("nan"), float("inf"), float("-inf")),
)
TEXTS = (
    *("", "\0", "\x1b[2J", "a\nb", "\r\n", "\u202e", "\ud800", "\ufeff", "é" * 300, "x" * 70_000, "../" * 40),
    *("/etc/passwd", "=1+1", "__a__", "{a|b}", "{" * 40, "((((" * 40, "[" * 3000, "[a:b:" * 300, "(a:" * 300),
    *("AND " * 300, " " * 30_000, "a: " * 9_000, '"' * 999, "\\" * 999, "{" + "|" * 20_000, "9" * 5_000),
    *("a_" * 9_000, "[:" + ": 1" * 9_000, "1" * 20_000 + "x", "<lora:" * 999, "%" * 99, "$$" * 99, "NaN"),
    *("Steps: 20, " * 500, "1:" * 5_000, "Negative prompt:" * 99, "0x" + "f" * 9_000, "2001-99-99", "1e999"),
)
TOKENS = (
    *("[", "]", "{", "}", "(", ")", ":", ",", '"', "'", "\\", "\n", "\t", "|", "&a ", "*a", "<<: *a\n", "- "),
    *("---\n", "!!python/object:os.system ", "!!binary |", "!!set ", "? ", "null", "true", "~", "1.", "0x"),
)
HOSTILE_DTYPES = ("F4", "C128", "f32", "", "F8_E8M0", None, 3)


def mutated(data: bytes, draw: Random) -> bytes:
    """The file with one to four wrongs in it, of which most keep its form."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        for kind in (_png, _safetensors, _json, _lines):
            if draw.random() < 0.6 and (changed := kind(data, draw)) is not None:
                data = changed
                break
        else:
            data = _bytes(data, draw)
    return data


def _bytes(data: bytes, draw: Random) -> bytes:
    start = draw.randrange(len(data) + 1)
    stop = min(len(data), start + draw.choice((1, 1, 4, 40, 4_000)))
    piece = data[start:stop]
    new = draw.choice(
        (
            b"",
            bytes(draw.randrange(256) for _ in piece),
            piece * draw.choice((2, 30, 2_000)),
            draw.choice(TOKENS).encode(),
            draw.choice(TEXTS).encode("utf-8", "surrogatepass"),
            str(draw.choice(NUMBERS)).encode(),
        )
    )
    return (data[:start] + new + data[stop:])[:400_000]


def _lines(data: bytes, draw: Random) -> bytes | None:
    lines = data.split(b"\n")
    if len(lines) < 2 or b"\0" in data:
        return None
    number = draw.randrange(len(lines))
    cells = lines[number].split(draw.choice((b",", b":", b"=", b"\t", b" ")))
    at = draw.randrange(len(cells))
    cells[at] = draw.choice(
        (
            str(draw.choice(NUMBERS)).encode(),
            draw.choice(TEXTS).encode("utf-8", "surrogatepass"),
            cells[draw.randrange(len(cells))],
        )
    )
    lines[number] = draw.choice((b",", b":", b"=", b"\t")).join(cells)
    return b"\n".join(draw.choice((lines, lines[:number], lines + lines, lines[number:])))


def _json(data: bytes, draw: Random) -> bytes | None:
    if data.lstrip()[:1] not in (b"{", b"["):
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return json.dumps(_changed(value, draw), ensure_ascii=draw.random() < 0.7).encode(
        "utf-8", "surrogatepass"
    )


def _changed(value: Any, draw: Random) -> Any:
    """Parsed JSON with one place in it changed."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        kind = draw.random()
        if kind < 0.08:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.16:
            return {draw.choice(TEXTS) if k == key else k: v for k, v in value.items()}
        return {**value, key: _changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.85:
        at = draw.randrange(len(value))
        kind = draw.random()
        if kind < 0.1:
            return value[:at]
        if kind < 0.2:
            return value * draw.choice((2, 300))
        return [*value[:at], _changed(value[at], draw), *value[at + 1 :]]
    if isinstance(value, str) and value and draw.random() < 0.5:
        at = draw.randrange(len(value))
        return value[:at] + draw.choice((*TEXTS, *TOKENS)) + value[at:]
    return draw.choice((*NUMBERS, *TEXTS, None, True, [], {}, [[]], {"": {}}, _nested(draw.choice((5, 400)))))


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _safetensors(data: bytes, draw: Random) -> bytes | None:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 10 or not 2 <= length <= len(data) - 8 or data[8:9] != b"{":
        return None
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return None
    names = [name for name in header if name != "__metadata__" and isinstance(header[name], dict)]
    if not names or draw.random() < 0.2:
        header = _changed(header, draw)
    else:
        name = draw.choice(names)
        header[name] = {**header[name], **_wrong_entry(header[name], draw)}
    text = json.dumps(header).encode()
    if draw.random() < 0.1:
        text = text[:-1] + b"," + text[1:]  # every key twice
    said = draw.choice((len(text),) * 9 + (0, len(text) + 1, 2**63, 2**64 - 1, 100_000_000))
    return (
        said.to_bytes(8, "little")
        + text
        + draw.choice((data[8 + length :],) * 6 + (b"", data[20 + length :]))
    )


def _wrong_entry(entry: dict[str, Any], draw: Random) -> dict[str, Any]:
    shape = entry.get("shape")
    offsets = entry.get("data_offsets")
    begin, end = offsets if isinstance(offsets, list) and len(offsets) == 2 else (0, 0)
    changes: Sequence[Callable[[], dict[str, Any]]] = (
        lambda: {"shape": [draw.choice(NUMBERS), *(shape if isinstance(shape, list) else [])]},
        lambda: {"shape": [-side for side in shape] if isinstance(shape, list) else -1},
        lambda: {"shape": [2**32, 2**32, 0]},
        lambda: {"shape": [1] * 5_000},
        lambda: {"data_offsets": [begin, draw.choice(NUMBERS)]},
        lambda: {"data_offsets": [end, begin]},
        lambda: {"data_offsets": [begin + 4, end + 4] if isinstance(begin, int) else None},
        lambda: {"data_offsets": [begin]},
        lambda: {"dtype": draw.choice((*HOSTILE_DTYPES, "F16", "F64", "BOOL"))},
    )
    try:
        return draw.choice(changes)()
    except (TypeError, ValueError):  # the entry is wrong already
        return {}


def _png(data: bytes, draw: Random) -> bytes | None:
    if not data.startswith(SIGNATURE):
        return None
    chunks = chunks_of(data)
    if not chunks:
        return None
    at = draw.randrange(len(chunks))
    kind, body = chunks[at]
    text = draw.choice(TEXTS).encode("utf-8", "surrogatepass")
    new: list[tuple[bytes, bytes]] = draw.choice(
        (
            [],
            [chunks[at]] * draw.choice((2, 300)),
            [(kind, _bytes(body, draw))],
            [(b"IHDR", struct.pack(">IIBBBBB", *_size(draw), draw.choice((1, 8, 16, 99)), 2, 0, 0, 0))],
            [(b"tEXt", b"parameters\0" + text), chunks[at]],
            [(b"zTXt", b"parameters\0\0" + zlib.compress(text * 40)), chunks[at]],
            [(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(5_000_000))), chunks[at]],
            [(b"zTXt", b"parameters\0" + draw.choice((b"", b"\1", b"\0x"))), chunks[at]],
            [(b"iTXt", b"parameters\0\1\0\0\0" + zlib.compress(text * 40)), chunks[at]],
            [(b"iTXt", b"parameters" + draw.choice((b"", b"\0", b"\0\1", b"\0\1\0\0\0x"))), chunks[at]],
            [(b"acTL", struct.pack(">II", draw.choice((1, 2**31 - 1)), 0)), chunks[at]],
            [(b"iCCP", b"x\0\0" + zlib.compress(bytes(5_000_000))), chunks[at]],
            [(draw.choice((b"eXIf", b"pHYs", b"tRNS", b"sRGB", b"\0\0\0\0")), text[:99]), chunks[at]],
        )
    )
    chunks[at : at + 1] = new
    return png_of(chunks, draw)


def _size(draw: Random) -> tuple[int, int]:
    sides = (0, 1, 64, 5_000, 20_000, 2**31 - 1)
    return draw.choice(sides), draw.choice(sides)


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """(kind, body) of the chunks of a PNG, lengths and checks left out."""
    found, at = [], len(SIGNATURE)
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png_of(chunks: Sequence[tuple[bytes, bytes]], draw: Random | None = None) -> bytes:
    """A PNG of these chunks. draw: for a length or a check that is wrong now and then."""
    parts = [SIGNATURE]
    for kind, body in chunks:
        length = draw.choice((len(body),) * 200 + (2**31 - 1, 0)) if draw else len(body)
        check = zlib.crc32(kind + body) ^ (draw is not None and draw.random() < 0.01)
        parts.append(length.to_bytes(4, "big") + kind + body + check.to_bytes(4, "big"))
    return b"".join(parts)
