"""The models folder: a model is named by its name there, never by a path."""

from __future__ import annotations

import difflib
from pathlib import Path

from optimizer.checkpoints.diffusers_folders import is_diffusers_folder
from scoring.display import shown
from scoring.errors import InputError

SUFFIXES = (".safetensors", ".ckpt")
# Bytes; what most file systems take, less the suffix.
_LONGEST = 240


def list_models(models_dir: Path) -> list[str]:
    """The names of the models in the folder, sorted: files and diffusers folders.

    `.safetensors` is left off, `.ckpt` is not.
    """
    folder = _folder(models_dir)
    found = [
        path
        for path in folder.iterdir()
        if (path.suffix in SUFFIXES and path.is_file()) or is_diffusers_folder(path)
    ]
    return sorted(
        path.stem if path.suffix == ".safetensors" and path.is_file() else path.name for path in found
    )


def resolve_model(models_dir: Path, name: str) -> Path:
    """The file or diffusers folder of a model, named with or without `.safetensors` (`.ckpt` must be said).

    Raises InputError for a path instead of a name, a name that leads out of the folder (a link does too),
    and a model that is not there. What is in the file is not looked at.
    """
    folder = _folder(models_dir)
    if not _is_name(name):
        raise InputError(f"{shown(name)} is no model name: name a file of the models folder, not a path")
    # The suffix is added, not replaced: `v1.5` is a name, `.5` is no suffix.
    candidates = [folder / f"{name}.safetensors", folder / name]
    found = next((path for path in candidates if path.is_file() or is_diffusers_folder(path)), None)
    if found is None:
        if (folder / name).is_dir():
            raise InputError(
                f"{name} is a directory; give a single-file checkpoint (.safetensors) or a "
                "diffusers folder, which has a model_index.json"
            )
        raise InputError(f"no model {name!r} in the models folder {folder}; {_suggest(folder, name)}")
    if found.is_file() and found.suffix not in SUFFIXES:
        raise InputError(f"{name} is no model file; models end in {' or '.join(SUFFIXES)}")
    if folder.resolve() not in found.resolve().parents:
        raise InputError(f"{name} is a link that leads out of the models folder; put the file itself there")
    return found


def _is_name(name: str) -> bool:
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return False
    marks = any(mark in name for mark in ("/", "\\", "\0", ":"))
    return 0 < length <= _LONGEST and not name.startswith(".") and not marks


def _folder(models_dir: Path) -> Path:
    folder = Path(models_dir)
    if not folder.is_dir():
        raise InputError(f"the models folder {folder} does not exist; create it or set another one")
    return folder


def _suggest(folder: Path, name: str) -> str:
    known = list_models(folder)
    close = difflib.get_close_matches(name, known, n=3) or known[:10]
    return f"there are: {', '.join(close)}" if close else "it is empty: put .safetensors files there"
