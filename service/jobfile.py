"""Job files on the client's side: read, and made independent of where the file lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scoring.data_text import MOST_JSON_CHARACTERS, parse_json, parse_yaml
from scoring.errors import InputError
from scoring.probes import probe_data
from service.folders import exists
from service.search_files import put_search_files


def read_job_file(path: Path) -> dict[str, Any]:
    """The request in a YAML or JSON job file, ready to be sent.

    Probe files, histories, presets and scorer weights that are named relative to the job file are found from
    there: the probes are put into the request (of images, their infotexts), histories as imported trials,
    presets as weights by block, the scorers' weights by their absolute path. Raises InputError.
    """
    request = read_mapping(path)
    folder = path.absolute().parent
    nodes = request.get("nodes")
    put_search_files(request, folder)
    for spec in [request, *(nodes.values() if isinstance(nodes, dict) else [])]:
        _put_probes(spec, folder)
    scorers = request.get("scorers")
    for scorer in scorers if isinstance(scorers, list) else []:
        if isinstance(scorer, dict) and isinstance(scorer.get("model"), str):
            beside = folder / scorer["model"]
            scorer["model"] = str(beside) if exists(beside) else scorer["model"]
    return request


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML or JSON file that holds names and values. Raises InputError naming the file."""
    value = _parse(path)
    if not isinstance(value, dict):
        raise InputError(
            f"{path}: a job file holds names and values (leaves:, probes:, scorers:), see README.md"
        )
    return {str(key): item for key, item in value.items()}


def read_rows(path: Path) -> list[Any]:
    """A YAML or JSON file that holds a list, the rows of a bracket. Raises InputError naming the file."""
    value = _parse(path)
    if not isinstance(value, list):
        raise InputError(f"{path}: a bracket is a list of rows {{o: 01b, a: one, b: two}}")
    return value


def _put_probes(spec: Any, folder: Path) -> None:
    for key in ("probes", "heldout"):
        named = spec.get(key) if isinstance(spec, dict) else None
        if isinstance(named, str):
            spec[key] = _probes(named, folder)
        elif isinstance(named, list):
            spec[key] = [probe for item in named for probe in _listed(_probes(item, folder))]


def _probes(item: Any, folder: Path) -> Any:
    # Not there: the service may have a file of that name in its probes folder.
    return (
        probe_data(folder / item)
        if isinstance(item, str) and exists(folder / item) and (folder / item).is_file()
        else item
    )


def _listed(probes: Any) -> list[Any]:
    return probes if isinstance(probes, list) else [probes]


def _parse(path: Path) -> Any:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path} is a directory; give a YAML or JSON file")
    try:
        if path.stat().st_size > 4 * MOST_JSON_CHARACTERS:
            raise ValueError(f"it has {path.stat().st_size / 1e6:.0f} MB, too much for a job")
        text = path.read_text(encoding="utf-8")
        return parse_json(text) if path.suffix.lower() == ".json" else parse_yaml(text)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as {'JSON' if path.suffix == '.json' else 'YAML'}: {error}"
        ) from error
