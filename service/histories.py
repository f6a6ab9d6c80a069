"""Histories that a job file names: read on the client's side, sent as imported trials."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimizer.formats.mbwrt_history import read_history
from scoring.errors import InputError


def put_histories(request: Mapping[str, Any], folder: Path) -> None:
    """The trials of every `search.history` of a request, one file or several, as `search.imported`.

    folder: where the files are found from. Raises InputError for a file that can't be read, and for a history
    that a job of several merges does not give to one of its nodes.
    """
    search, leaves = request.get("search"), request.get("leaves")
    several = request.get("bracket") or (isinstance(leaves, list) and len(leaves) > 2)
    if several and isinstance(search, dict) and "history" in search:
        raise InputError(
            "search.history: a history is of one pair, and this job merges several; give it to its node, as "
            "nodes: {01b: {search: {history: FILE}}}"
        )
    nodes = request.get("nodes")
    for spec in [request, *(nodes.values() if isinstance(nodes, dict) else [])]:
        _put_history(spec.get("search") if isinstance(spec, Mapping) else None, folder)


def _put_history(search: Any, folder: Path) -> None:
    if not isinstance(search, dict) or "history" not in search:
        return
    named = search.pop("history")
    files = named if isinstance(named, list) else [named]
    if not all(isinstance(file, str) for file in files):
        raise InputError(f"search.history: {named!r} is no file's name; name a history of auto-MBW-rt")
    trials = [trial for file in files for trial in read_history(folder / file).distinct]
    known = search.get("imported") or []
    search["imported"] = [*known, *({"weights": t.weights, "score": t.score} for t in trials)]
