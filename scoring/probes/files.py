"""The files that hold probes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scoring.data_text import MOST_JSON_CHARACTERS, parse_json, parse_toml, parse_yaml
from scoring.errors import InputError
from scoring.probes.forms import read_probes
from scoring.probes.images import IMAGE_SUFFIXES, infotext_of_image
from scoring.probes.infotext_lines import split_infotexts
from scoring.probes.places import Places
from scoring.probes.reading import Reading

_TEXT_SUFFIXES = (".txt",)
_KNOWN = "YAML, JSON or TOML, an infotext as .txt, or an image of A1111's"


def read_probe_file(path: Path, places: Places | None = None) -> Reading:
    """The probes of a file: infotexts as text or in an image, else what `read_probes` reads.

    Raises InputError that names the file for one that is missing, unreadable or wrong.
    """
    return read_probes(probe_data(path), str(path), places)


def probe_data(path: Path) -> Any:
    """What a file holds, in a form that `read_probes` reads; of an image, its infotext.

    Raises InputError that names the file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a file of probes: {_KNOWN}")
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return {"infotext": infotext_of_image(path)}
    if suffix in (".msgpack", ".mpk"):
        raise InputError(f"{path}: MessagePack is not read here; save the payload as JSON, YAML or TOML")
    try:
        # Looked at before it is read: a file of the probes folder may be any file.
        if path.stat().st_size > 4 * MOST_JSON_CHARACTERS:
            raise ValueError(f"it has {path.stat().st_size / 1e6:.0f} MB, too much for probes")
        return _parsed(path.read_text(encoding="utf-8"), suffix)
    except (OSError, ValueError) as error:
        kind = suffix.removeprefix(".").upper() if suffix in (".json", ".toml", ".txt") else "YAML"
        raise InputError(f"{path}: not readable as {kind}: {error}; give {_KNOWN}") from error


def _parsed(text: str, suffix: str) -> Any:
    if suffix in _TEXT_SUFFIXES:
        texts = split_infotexts(text) or [text]
        return {"infotext": texts[0]} if len(texts) == 1 else [{"infotext": part} for part in texts]
    if suffix == ".json":
        return parse_json(text)
    if suffix == ".toml":
        return parse_toml(text)
    return parse_yaml(text)
