"""Hashes of checkpoints, each computed once: reading a file for its sha256 takes longer than most else."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from optimizer.checkpoints.inspection import changed_at, sha256_of, size_of

_FILE = "hashes.json"


class HashCache:
    """sha256 by path, size and time of change, kept in one JSON file of a folder; None: kept nowhere."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._known = _read(folder / _FILE) if folder is not None else {}

    def sha256(self, path: Path) -> str:
        """The sha256 of a checkpoint; from the cache while size and time of change stay."""
        key, stamp = str(path.resolve()), [size_of(path), changed_at(path)]
        known = self._known.get(key)
        if known is not None and known[:2] == stamp:
            return str(known[2])
        digest = sha256_of(path)
        self._known[key] = [*stamp, digest]
        if self._folder is not None:
            # What another process has found in the meantime is kept.
            write_json(self._folder / _FILE, {**_read(self._folder / _FILE), key: self._known[key]})
        return digest


def write_json(path: Path, value: object) -> None:
    """Write a cache file whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        json.dump(value, file)
    Path(name).replace(path)


def _read(path: Path) -> dict[str, list[object]]:
    # A cache that is damaged is as good as none.
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    kept = value.items() if isinstance(value, dict) else ()
    return {str(key): entry for key, entry in kept if isinstance(entry, list) and len(entry) == 3}
