"""Opening whatever a person calls a model: a file, a file with EMA copies alone, a diffusers folder."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from optimizer.blocks import UNET_PREFIX
from optimizer.checkpoints.architectures import ARCHITECTURES, expected_tensors
from optimizer.checkpoints.diffusers_folders import is_diffusers_folder, open_diffusers_folder
from optimizer.checkpoints.names import EMA_PREFIX, ema_name
from optimizer.checkpoints.reading import CheckpointFile, open_file
from optimizer.checkpoints.views import Origin, view
from scoring.errors import InputError


def open_checkpoint(path: Path) -> CheckpointFile:
    """Open a `.safetensors` file, a `.ckpt` that holds nothing but tensors, or a diffusers folder.

    Keys are those of a single file (LDM). Where a file holds no UNet but the EMA copy of one, that copy is
    seen as the UNet. Raises InputError for what is missing, empty, truncated, no checkpoint, or holds code.
    """
    path = Path(path)
    if is_diffusers_folder(path):
        return open_diffusers_folder(path)
    if path.is_dir():
        raise InputError(
            f"{path.name} is a directory; give a single-file checkpoint (.safetensors) or a "
            "diffusers folder, which has a model_index.json"
        )
    file = open_file(path)
    has_unet = any(key.startswith(UNET_PREFIX) for key in file.entries)
    has_copy = any(key.startswith(f"{EMA_PREFIX}diffusion_model") for key in file.entries)
    return ema_as_unet(file) if has_copy and not has_unet else file


def ema_as_unet(file: CheckpointFile) -> CheckpointFile:
    """The file with the EMA copy of its UNet in the UNet's place, and without EMA keys.

    Closing the view closes the file. Raises InputError when the file has no EMA copy.
    """
    origins = {
        key: Origin(file, (key,)) for key in file.entries if not key.startswith((EMA_PREFIX, UNET_PREFIX))
    }
    copies = {
        _unet_key_of_ema()[key]: Origin(file, (key,)) for key in file.entries if key in _unet_key_of_ema()
    }
    if not copies:
        raise InputError(f"{file.path.name} has no EMA copy of its UNet; take its UNet as it is")
    return view(file.path, {**copies, **origins}, file.metadata, owned=[file], unet_from_ema=True)


@lru_cache
def _unet_key_of_ema() -> dict[str, str]:
    return {
        ema_name(key): key for architecture in ARCHITECTURES for key in expected_tensors(architecture).unet
    }
