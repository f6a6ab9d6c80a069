"""What can be known of a checkpoint without loading it, and whether two of them can be merged."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from optimizer.blocks import UNET_PREFIX, block_of
from optimizer.checkpoints.architectures import (
    TITLES,
    Architecture,
    PredictionType,
    Shapes,
    expected_tensors,
    is_harmless_extra,
    signatures,
)
from optimizer.checkpoints.diffusers_folders import is_diffusers_folder, weight_files
from optimizer.checkpoints.names import EMA_PREFIX, TEXT_PREFIXES, VAE_PREFIX
from optimizer.checkpoints.opening import open_checkpoint
from optimizer.checkpoints.prediction import Prediction, find_prediction
from optimizer.checkpoints.reading import DTYPE_NAMES, CheckpointFile, Entry
from scoring.errors import InputError

_FIRST_CONVOLUTION = f"{UNET_PREFIX}input_blocks.0.0.weight"
_CROSS_ATTENTION = ".attn2.to_k.weight"
# What stands beside the four channels of the noisy latent: an encoded image and its mask, an encoded image,
# a depth map.
_KINDS_BY_CHANNELS = {9: "an inpainting model", 8: "an instruct-pix2pix model", 5: "a depth model"}
_ADAPTER_MARKS = ("lora_", ".lora.", "hada_w", "lokr_w", "oft_blocks", "glora_")
_JSON_METADATA = ("sd_merge_recipe", "sd_merge_models", "sd_mbwrt_recipe")


class BadValues(BaseModel):
    """Numbers in a block that no merge survives."""

    model_config = ConfigDict(frozen=True)
    nan: int
    inf: int


class Inspection(BaseModel):
    """What we know of one checkpoint file. `bad_values` and the sha256 need the statistics pass."""

    model_config = ConfigDict(frozen=True)
    name: str
    size: int
    """Bytes."""
    architecture: Architecture
    prediction_type: PredictionType
    prediction_known_by: str
    prediction_assumed: bool
    dtypes: dict[str, int]
    """safetensors name of a dtype -> number of tensors."""
    tensors: int
    parameters: int
    """Numbers in the model itself, EMA copies left out."""
    ema_keys: int
    unet_from_ema: bool = False
    """The file has no UNet but the EMA copy of one, which is used."""
    missing_keys: list[str]
    extra_keys: list[str]
    bad_values: dict[str, BadValues] | None
    """UNet block, or VAE, TEXT_ENCODER, OTHER -> its NaN and Inf, where it has any; None: not counted."""
    sha256: str | None
    short_hash: str | None
    """A1111's: the first ten digits of the sha256."""
    legacy_hash: str
    """A1111's of old; see `legacy_hash_of`."""
    metadata: dict[str, Any]
    """The file's metadata, with embedded recipes parsed."""


def inspect_checkpoint(
    path: Path, *, statistics: bool = True, prediction_type: str | None = None
) -> Inspection:
    """Inspect a checkpoint: a single file, or a diffusers folder.

    The header is enough for all but sha256 and NaN/Inf counts; `statistics` adds those, reading the file
    twice, one tensor at a time. Raises InputError when the file is broken or no checkpoint that we know.
    """
    path = Path(path)
    with open_checkpoint(path) as file:
        architecture = find_architecture(file)
        model = {key: entry for key, entry in file.entries.items() if not key.startswith(EMA_PREFIX)}
        expected = expected_tensors(architecture).all
        prediction = find_prediction(architecture, path.stem, file.metadata, model.keys(), prediction_type)
        digest = sha256_of(path) if statistics else None
        return Inspection(
            name=path.name,
            size=size_of(path),
            architecture=architecture,
            prediction_type=prediction.type,
            prediction_known_by=prediction.known_by,
            prediction_assumed=prediction.assumed,
            dtypes=dict(Counter(_dtype_name(entry) for entry in file.entries.values())),
            tensors=len(file.entries),
            parameters=sum(model[key].numel for key in expected if key in model),
            ema_keys=len(file.entries) - len(model),
            unet_from_ema=file.unet_from_ema,
            missing_keys=[key for key in expected if key not in model],
            extra_keys=[key for key in model if key not in expected and not is_harmless_extra(key)],
            bad_values=count_bad_values(file) if statistics else None,
            sha256=digest,
            short_hash=digest[:10] if digest else None,
            legacy_hash=legacy_hash_of(path),
            metadata=_parsed(file.metadata),
        )


def find_architecture(file: CheckpointFile) -> Architecture:
    """The architecture from key names and shapes alone; InputError where it is none of ours."""
    name, entries = file.path.name, file.entries
    if any(mark in key for key in entries for mark in _ADAPTER_MARKS):
        raise InputError(f"{name} is a LoRA, not a checkpoint; bake it into a checkpoint first")
    if not any(key.startswith(UNET_PREFIX) for key in entries):
        raise InputError(f"{name} is no Stable Diffusion checkpoint: {_what_instead(entries)}")
    first = entries.get(_FIRST_CONVOLUTION)
    cross = next((entries[key] for key in sorted(entries) if _is_cross_attention(key)), None)
    if first is None or cross is None or not first.shape or len(cross.shape) != 2:
        raise InputError(
            f"{name}: the UNet lacks its first convolution or its cross-attention; use a whole model"
        )
    architecture = signatures().get((first.shape[0], cross.shape[1]))
    if architecture is None:
        raise InputError(
            f"{name} is of an unknown architecture: {first.shape[0]} channels and text {cross.shape[1]} "
            f"wide; supported are {', '.join(TITLES.values())}"
        )
    _check_shapes(name, architecture, entries)
    return architecture


def check_pair(a: Inspection, b: Inspection) -> list[str]:
    """Whether A and B can be merged: notes on what the merge leaves out, or InputError saying why not."""
    _check_same_architecture(a, b)
    if a.sha256 is not None and a.sha256 == b.sha256:
        raise InputError(
            f"A equal to B: {a.name} and {b.name} hold the same bytes; choose two different models"
        )
    _check_complete(a, ("",))
    _check_complete(b, (UNET_PREFIX,))
    _check_finite(a, only_unet=False)
    _check_finite(b, only_unet=True)
    predictions = prediction_notes(a.name, _prediction_of(a), b.name, _prediction_of(b))
    return [*predictions, *_ema_notes(a, b), *_content_notes(a, b)]


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex.

    Of a diffusers folder: of its weight files' lines as `sha256sum` prints them, in the order of their names.
    """
    if is_diffusers_folder(path):
        lines = [f"{sha256_of(file)}  {file.relative_to(path)}\n" for file in weight_files(path)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a checkpoint file, or of all that lies in a diffusers folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def changed_at(path: Path) -> int:
    """When a checkpoint last changed, in nanoseconds since 1970."""
    return max((file.stat().st_mtime_ns for file in _files_of(path)), default=0)


def legacy_hash_of(path: Path) -> str:
    """The 8 hex digits by which A1111 named models before it had sha256.

    Of the 64 KiB at 1 MiB alone, so different files may share it (`model_hash` in its modules/sd_models.py).
    Of a diffusers folder: of its UNet's file.
    """
    path = _files_of(path)[-1]
    with path.open("rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


def shape_text(shape: tuple[int, ...]) -> str:
    """`320x768`."""
    return "x".join(map(str, shape))


def _files_of(path: Path) -> list[Path]:
    # Of a folder in the order of their names, and `vae` would come after `unet`.
    return sorted(weight_files(path), key=_is_unet_file) if is_diffusers_folder(path) else [path]


def _is_unet_file(path: Path) -> bool:
    return path.parent.name == "unet"


def _is_cross_attention(key: str) -> bool:
    return key.startswith(UNET_PREFIX) and key.endswith(_CROSS_ATTENTION)


def _what_instead(entries: Mapping[str, Entry]) -> str:
    if any(key.startswith(("down_blocks.", "unet.")) for key in entries):
        return (
            "it is one part of a diffusers folder; give the folder, or join it with a text encoder and a VAE"
        )
    example = next(iter(entries), "no tensor at all")
    return f"it has no {UNET_PREFIX}* tensors (but {example}); give a whole single-file checkpoint"


def _check_shapes(name: str, architecture: Architecture, entries: Mapping[str, Entry]) -> None:
    for key, shape in expected_tensors(architecture).all.items():
        found = entries[key].shape if key in entries else shape
        if not same_shape(key, found, shape):
            if key == _FIRST_CONVOLUTION and len(found) == len(shape):
                _refuse_channels(name, architecture, found, shape)
            raise InputError(
                f"{name} looks like {TITLES[architecture]} but {key} is {shape_text(found)} where "
                f"{shape_text(shape)} is needed; use a plain text-to-image checkpoint"
            )


def _refuse_channels(
    name: str, architecture: Architecture, found: tuple[int, ...], needed: tuple[int, ...]
) -> NoReturn:
    kind = _KINDS_BY_CHANNELS.get(found[1], "a model of another kind")
    raise InputError(
        f"{name} is {kind} of {TITLES[architecture]}: its UNet takes {found[1]} channels, not {needed[1]} "
        f"({_FIRST_CONVOLUTION} is {shape_text(found)} where {shape_text(needed)} is needed), and is merged "
        "with none that takes others; use a plain text-to-image checkpoint"
    )


def same_shape(key: str, found: tuple[int, ...], needed: tuple[int, ...]) -> bool:
    """Whether a tensor's shape is the needed one; VAE attention may be matrices or 1x1 convolutions."""
    return found == needed or (key.startswith(VAE_PREFIX) and found == needed[:2] == needed[: len(found)])


def _dtype_name(entry: Entry) -> str:
    return DTYPE_NAMES.get(entry.dtype, str(entry.dtype))


def count_bad_values(file: CheckpointFile, prefixes: tuple[str, ...] = ("",)) -> dict[str, BadValues]:
    """Part of the file (see `Inspection.bad_values`) -> its NaN and Inf, where it has any.

    prefixes: of the keys that are looked at.
    """
    nan: Counter[str] = Counter()
    inf: Counter[str] = Counter()
    for key, entry in file.entries.items():
        looked_at = key.startswith(prefixes) and not key.startswith(EMA_PREFIX)
        if not looked_at or not entry.dtype.is_floating_point or not entry.numel:
            continue
        tensor = file.tensor(key)
        if not _is_finite(tensor):
            nan[_part(key)] += int(torch.isnan(tensor.float()).sum())
            inf[_part(key)] += int(torch.isinf(tensor.float()).sum())
    return {part: BadValues(nan=nan[part], inf=inf[part]) for part in nan}


def _is_finite(tensor: Tensor) -> bool:
    # One pass without a temporary of the tensor's size: NaN and Inf both show in the extremes.
    low, high = torch.aminmax(tensor.float() if tensor.dtype.itemsize == 1 else tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _part(key: str) -> str:
    block = block_of(key) if key.startswith(UNET_PREFIX) else None
    if block is not None:
        return block
    if key.startswith(VAE_PREFIX):
        return "VAE"
    return "TEXT_ENCODER" if key.startswith(TEXT_PREFIXES) else "OTHER"


def _parsed(metadata: Mapping[str, str]) -> dict[str, Any]:
    return {key: _parsed_value(value) if key in _JSON_METADATA else value for key, value in metadata.items()}


def _parsed_value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _check_same_architecture(a: Inspection, b: Inspection) -> None:
    if a.architecture == b.architecture:
        return
    key, in_a, in_b = _first_difference(
        expected_tensors(a.architecture).unet, expected_tensors(b.architecture).unet
    )
    raise InputError(
        f"{a.name} is {TITLES[a.architecture]} and {b.name} is {TITLES[b.architecture]}, which "
        f"cannot be merged: {key} is {shape_text(in_a)} against {shape_text(in_b)}; "
        "choose models of one architecture"
    )


def _first_difference(a: Shapes, b: Shapes) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    differing = [key for key in a if key in b and a[key] != b[key]]
    # Cross-attention is where a reader knows the numbers: 768 is SD1's text encoder, 1024 SD2's.
    key = min(differing, key=lambda key: (not key.endswith(_CROSS_ATTENTION), key))
    return key, a[key], b[key]


def _check_complete(inspection: Inspection, prefixes: tuple[str, ...]) -> None:
    missing = [key for key in inspection.missing_keys if key.startswith(prefixes)]
    if missing:
        raise InputError(f"{inspection.name} lacks {_some(missing)}; use a complete checkpoint")


def _check_finite(inspection: Inspection, *, only_unet: bool) -> None:
    for part, bad in (inspection.bad_values or {}).items():
        if part == "OTHER" or (only_unet and part in ("VAE", "TEXT_ENCODER")):
            continue
        raise broken(inspection.name, part, bad)


def broken(name: str, part: str, bad: BadValues) -> InputError:
    """The error for a file with such numbers."""
    return InputError(
        f"{name} is broken: block {part} has {bad.nan} NaN and {bad.inf} Inf values; "
        "download it again or leave it out"
    )


def prediction_notes(a: str, of_a: Prediction, b: str, of_b: Prediction) -> list[str]:
    """What to know of merging UNets `a` and `b` that predict different things; nothing where they do not.

    Raises InputError where both are known for sure.
    """
    if of_a.type == of_b.type:
        return []
    if not (of_a.assumed or of_b.assumed):
        raise InputError(
            f"{a} is {of_a.type} ({of_a.known_by}) and {b} is {of_b.type} "
            f"({of_b.known_by}); only models with the same prediction type can be merged"
        )
    return [
        f"prediction type: {a} {of_a.type} ({of_a.known_by}), "
        f"{b} {of_b.type} ({of_b.known_by}); the merge is used as {of_a.type}"
    ]


def _prediction_of(inspection: Inspection) -> Prediction:
    return Prediction(
        inspection.prediction_type, inspection.prediction_known_by, inspection.prediction_assumed
    )


def _ema_notes(a: Inspection, b: Inspection) -> list[str]:
    owners = [
        f"{side} ({found.name}, {found.ema_keys} keys)"
        for side, found in (("A", a), ("B", b))
        if found.ema_keys
    ]
    if not owners:
        return []
    where = f"{owners[0]} only" if len(owners) == 1 else " and ".join(owners)
    return [f"EMA weights in {where}: left out, the rest is merged"]


def _content_notes(a: Inspection, b: Inspection) -> list[str]:
    notes = [
        f"{found.name} has {len(found.extra_keys)} keys that {TITLES[found.architecture]} does not know "
        f"({_some(found.extra_keys)}): {'kept as they are' if found is a else 'left out'}"
        for found in (a, b)
        if found.extra_keys
    ]
    if b.missing_keys:
        notes.append(f"{b.name} lacks {_some(b.missing_keys)}: VAE and text encoder come from A")
    bad = sorted(set(b.bad_values or {}) & {"VAE", "TEXT_ENCODER"})
    if bad:
        notes.append(f"{b.name} has NaN or Inf in {' and '.join(bad)}: not used, these come from A")
    return notes


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return f"{keys[0]}{more}"
