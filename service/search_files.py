"""Files that a search names in a job file, histories and presets: read by the client, sent as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optimizer.blocks import BLOCKS, SDXL_BLOCKS, BlockWeights
from optimizer.formats.mbwrt_history import read_history
from optimizer.formats.presets import WELL_KNOWN, Preset, read_presets, weights_for
from optimizer.warm_start import HISTORY
from scoring.errors import InputError


def put_search_files(request: Mapping[str, Any], folder: Path) -> None:
    """Put what the searches of a request name into it.

    `search.history`, one file or several, becomes `search.imported`; names in `search.start` that stand in
    the file `search.presets` become weights by block. folder: where the files are found from. Raises
    InputError for a file that can't be read, and for a history that a job of several merges does not give to
    one of its nodes.
    """
    search = request.get("search")
    if isinstance(search, dict) and "history" in search and _merges_several(request):
        raise InputError(
            "search.history: a history is of one pair, and this job merges several; give it to its node, as "
            "nodes: {01b: {search: {history: FILE}}}"
        )
    nodes = request.get("nodes")
    for spec in [request, *(nodes.values() if isinstance(nodes, dict) else [])]:
        own = spec.get("search") if isinstance(spec, Mapping) else None
        if isinstance(own, dict):
            _put_history(own, folder)
            _put_presets(own, folder)


def _merges_several(request: Mapping[str, Any]) -> bool:
    leaves, bracket = request.get("leaves"), request.get("bracket")
    table = bracket.get("table") if isinstance(bracket, Mapping) else None
    return (isinstance(leaves, list) and len(leaves) > 2) or (isinstance(table, list) and len(table) > 1)


def _put_history(search: dict[str, Any], folder: Path) -> None:
    if "history" not in search:
        return
    named = search.pop("history")
    files = named if isinstance(named, list) else [named]
    if not all(isinstance(file, str) for file in files):
        raise InputError(f"search.history: {named!r} is no file's name; name a history of auto-MBW-rt")
    trials = [trial for file in files for trial in read_history(folder / file).distinct]
    known = search.get("imported") or []
    search["imported"] = [*known, *({"weights": t.weights, "score": t.score} for t in trials)]


def _put_presets(search: dict[str, Any], folder: Path) -> None:
    if "presets" not in search:
        return
    named = search.pop("presets")
    if not isinstance(named, str):
        raise InputError(f"search.presets: {named!r} is no file's name; name a file of presets")
    presets = read_presets(folder / named)
    start = search.get("start") or []
    search["start"] = [_point(point, presets, named) for point in start] if isinstance(start, list) else start


def _point(point: Any, presets: Sequence[Preset], file: str) -> Any:
    """A start point, by block where it is the name of a preset in the file."""
    found = [preset for preset in presets if preset.name == point]
    if not found:
        if isinstance(point, str) and point not in WELL_KNOWN and point != HISTORY:
            names = ", ".join(dict.fromkeys(preset.name for preset in presets))
            raise InputError(f"search.start: there is no preset {point!r} in {file}; it has {names}")
        return point
    if len(found) > 1:
        raise InputError(
            f"search.start: {file} has {point!r} for SD1 and SD2 and for SDXL; give the weights by block, as "
            f"`autombw presets {file} --json` prints them"
        )
    return _by_block(found[0])


def _by_block(preset: Preset) -> BlockWeights:
    return weights_for(preset, SDXL_BLOCKS if preset.lacks(BLOCKS) else BLOCKS)
