"""A diffusers folder (`save_pretrained`) seen as a single-file checkpoint: LDM keys, tensors on demand.

diffusers converts from the single file only. Names come from `names.py`, which is checked against diffusers'
own converter, so the view is the exact inverse of loading.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from optimizer.checkpoints.architectures import (
    ARCHITECTURES,
    CLIP_PREFIXES,
    OPEN_CLIP_PREFIXES,
    TITLES,
    Architecture,
    build_text_encoder,
    build_unet,
    build_vae,
    expected_tensors,
    signatures,
)
from optimizer.checkpoints.names import clip_names, open_clip_names, unet_names, vae_names
from optimizer.checkpoints.reading import CheckpointFile, open_file
from optimizer.checkpoints.views import Origin, view
from scoring.errors import InputError

INDEX = "model_index.json"
# Stems of the weight files, best first; fp16 is what `variant="fp16"` writes.
_STEMS = {
    "unet": ("diffusion_pytorch_model", "diffusion_pytorch_model.fp16"),
    "vae": ("diffusion_pytorch_model", "diffusion_pytorch_model.fp16"),
    "text_encoder": ("model", "model.fp16", "pytorch_model"),
    "text_encoder_2": ("model", "model.fp16", "pytorch_model"),
}
_REQUIRED = ("unet", "vae", "text_encoder")
_SUFFIXES = (".safetensors", ".bin")
# diffusers before 0.17 named the VAE's attention so.
_OLD_VAE_NAMES = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
_MOST_INDEX_BYTES = 10_000_000

Origins = dict[str, Origin]


def is_diffusers_folder(path: Path) -> bool:
    """Whether a path is a folder of a whole diffusers pipeline."""
    return (Path(path) / INDEX).is_file()


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a diffusers folder that are read, sorted; InputError where a part has none."""
    return sorted(file for part in _parts(folder) for file in _files_of_part(folder, part))


def open_diffusers_folder(folder: Path) -> CheckpointFile:
    """A folder as a checkpoint: UNet, VAE and text encoders under single-file keys.

    The prediction type of its scheduler becomes its metadata. Raises InputError for a part that is missing
    or of another architecture, and for files that cannot be read.
    """
    folder = Path(folder)
    with ExitStack() as opened:
        files = {
            part: [opened.enter_context(open_file(file)) for file in _files_of_part(folder, part)]
            for part in _parts(folder)
        }
        tensors = {part: _named(files[part]) for part in files}
        architecture = _architecture(folder, tensors["unet"])
        if (architecture == "sdxl") != ("text_encoder_2" in files):
            raise InputError(
                f"{folder.name} is {TITLES[architecture]} by its UNet and not by its text encoders"
            )
        origins = {
            **unet_origins(tensors["unet"], architecture),
            **text_origins(tensors["text_encoder"], architecture),
            **(text_origins(tensors["text_encoder_2"], architecture, 2) if architecture == "sdxl" else {}),
            **vae_origins(tensors["vae"], architecture),
        }
        found = view(
            folder, origins, _metadata(folder), owned=[file for part in files.values() for file in part]
        )
        opened.pop_all()
    return found


def unet_origins(tensors: Origins, architecture: Architecture) -> Origins:
    """LDM key -> origin of the tensors of a `UNet2DConditionModel`."""
    return _renamed(tensors, unet_names(build_unet(architecture)))


def vae_origins(tensors: Origins, architecture: Architecture) -> Origins:
    """LDM key -> origin of the tensors of an `AutoencoderKL`, in the shapes of a single file."""
    shapes = expected_tensors(architecture).vae
    found: Origins = {}
    for name, key in vae_names(build_vae(architecture)).items():
        old = _with_old_names(name)
        origin = tensors.get(name) or tensors.get(old)
        if origin is not None:
            found[key] = Origin(origin.file, origin.keys, shapes[key])
    return found


def text_origins(tensors: Origins, architecture: Architecture, number: int = 1) -> Origins:
    """LDM key -> origin of the tensors of a `CLIPTextModel`; number 2: SDXL's second encoder."""
    part = "text_encoder" if number == 1 else "text_encoder_2"
    tensors = {key.removeprefix("text_model."): origin for key, origin in tensors.items()}
    module = build_text_encoder(architecture, part)
    names = [key.removeprefix("text_model.") for key in module.state_dict()]
    if architecture not in OPEN_CLIP_PREFIXES or (architecture == "sdxl" and number == 1):
        return _renamed(
            tensors,
            {
                key.removeprefix("text_model."): ldm
                for key, ldm in clip_names(module, CLIP_PREFIXES[architecture]).items()
            },
        )
    return open_clip_origins(tensors, names, OPEN_CLIP_PREFIXES[architecture])


def open_clip_origins(tensors: Origins, names: Iterable[str], prefix: str) -> Origins:
    """open_clip's keys under a prefix -> origin of the tensors of a transformers CLIP with these names."""
    found: Origins = {}
    for ldm, keys in open_clip_names(names).items():
        held = [tensors[key] for key in keys if key in tensors]
        if len(held) == len(keys):
            found[prefix + ldm] = Origin(held[0].file, tuple(name for origin in held for name in origin.keys))
    projection = tensors.get("text_projection.weight")
    if projection is not None:
        # open_clip multiplies by it from the other side.
        found[f"{prefix}text_projection"] = Origin(projection.file, projection.keys, transposed=True)
    return found


def _parts(folder: Path) -> list[str]:
    return [part for part in _STEMS if part in _REQUIRED or (folder / part).is_dir()]


def _files_of_part(folder: Path, part: str) -> list[Path]:
    inner = folder / part
    for suffix in _SUFFIXES:
        for stem in _STEMS[part]:
            single, index = inner / f"{stem}{suffix}", inner / f"{stem}{suffix}.index.json"
            if single.is_file():
                return [single]
            if index.is_file():
                return _shards(index)
    raise InputError(
        f"{folder.name} has no weights of its {part} ({_STEMS[part][0]}.safetensors in {part}/); "
        "give a whole diffusers folder"
    )


def _shards(index: Path) -> list[Path]:
    names = set(_json(index).get("weight_map", {}).values())
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise InputError(f"{index} names no files beside it; download the folder again")
    return [index.parent / name for name in sorted(names)]


def _named(files: Iterable[CheckpointFile]) -> Origins:
    return {key: Origin(file, (key,)) for file in files for key in file.entries}


def _architecture(folder: Path, unet: Mapping[str, Origin]) -> Architecture:
    first = unet.get("conv_in.weight")
    cross = next((unet[key] for key in sorted(unet) if key.endswith(".attn2.to_k.weight")), None)
    if first is None or cross is None or not first.entry().shape or len(cross.entry().shape) != 2:
        raise InputError(f"{folder.name}: its unet lacks its first convolution or its cross-attention")
    numbers = first.entry().shape[0], cross.entry().shape[1]
    if numbers not in signatures():
        raise InputError(
            f"{folder.name} is of an unknown architecture: {numbers[0]} channels and text {numbers[1]} wide; "
            f"supported are {', '.join(TITLES[known] for known in ARCHITECTURES)}"
        )
    return signatures()[numbers]


def _metadata(folder: Path) -> dict[str, str]:
    scheduler = folder / "scheduler" / "scheduler_config.json"
    told = _json(scheduler).get("prediction_type") if scheduler.is_file() else None
    return {"prediction_type": str(told)} if told else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_INDEX_BYTES:
            raise ValueError("too large")
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({error}); download the folder again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is no JSON table; download the folder again")
    return value


def _renamed(tensors: Origins, names: Mapping[str, str]) -> Origins:
    return {ldm: tensors[name] for name, ldm in names.items() if name in tensors}


def _with_old_names(name: str) -> str:
    for new, old in _OLD_VAE_NAMES.items():
        name = name.replace(new, old)
    return name
