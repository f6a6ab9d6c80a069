"""Writing a safetensors file: whole or not at all, one tensor in memory at a time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from optimizer.checkpoints.prediction import parse_prediction_type
from optimizer.checkpoints.reading import DTYPE_NAMES, Entry
from scoring.errors import InputError

Sealed = Callable[[str], None]
"""Told the sha256 of a file that is complete and about to appear."""

_MODELSPEC_ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2",
    "sdxl": "stable-diffusion-xl-v1-base",
    "emoji": "autombw-emoji",
}


def write_checkpoint(out: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors to a safetensors file; see `write_streamed` for what is promised."""
    layout = {key: Entry(tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}
    write_streamed(out, layout, tensors.__getitem__, metadata)


def write_streamed(
    out: Path,
    layout: Mapping[str, Entry],
    produce: Callable[[str], Tensor],
    metadata: Mapping[str, str],
    sealed: Sealed | None = None,
) -> None:
    """Write a safetensors file whose tensors are made one at a time.

    layout: key -> dtype and shape, known beforehand because the header comes first. sealed: called with the
    sha256 when the file is complete and on the disk, right before it gets its name; what it raises keeps the
    file from appearing. The file appears under its name complete and on the disk (temporary file, fsync,
    rename), or not at all: on any error an older file of that name stays as it was and nothing is left
    behind. Raises InputError when the metadata holds something other than strings or the file cannot be
    written (disk full, no permission, no such folder).
    """
    out = Path(out)
    order, header = _header(layout, metadata)
    size = len(header) + sum(entry.numel * entry.dtype.itemsize for entry in layout.values())
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent)
    except OSError as error:
        raise _write_failed(out, size, error) from error
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            sha256 = _write_body(file, header, order, layout, produce)
        if sealed is not None:
            sealed(sha256)
        # mkstemp makes a file that only its owner reads; a model is an ordinary file.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(out)
        _sync_folder(out.parent)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise _write_failed(out, size, error) from error
        raise


def modelspec(architecture: str, prediction_type: str, title: str) -> dict[str, str]:
    """The metadata keys of the Stability model specification that tools read, all strings."""
    velocity = parse_prediction_type(prediction_type) == "v_prediction"
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": _MODELSPEC_ARCHITECTURES[architecture],
        "modelspec.implementation": "sgm" if architecture == "sdxl" else "ldm",
        "modelspec.title": title,
        "modelspec.prediction_type": "v" if velocity else "epsilon",
    }


def _header(layout: Mapping[str, Entry], metadata: Mapping[str, str]) -> tuple[list[str], bytes]:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InputError(
                f"metadata {key!r} is {type(value).__name__}; safetensors metadata must be strings"
            )
    # Wide dtypes first, so that every tensor starts at a multiple of its item size.
    order = sorted(layout, key=lambda key: (-layout[key].dtype.itemsize, key))
    table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for key in order:
        entry = layout[key]
        end = offset + entry.numel * entry.dtype.itemsize
        table[key] = {"dtype": DTYPE_NAMES[entry.dtype], "shape": entry.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return order, len(text).to_bytes(8, "little") + text


def _write_body(
    file: BinaryIO,
    header: bytes,
    order: list[str],
    layout: Mapping[str, Entry],
    produce: Callable[[str], Tensor],
) -> str:
    """Write everything through to the disk; the sha256 of it all.

    While a tensor is made, the one before it is hashed and written.
    """
    digest = hashlib.sha256(header)
    file.write(header)

    def put(data: memoryview) -> None:
        digest.update(data)
        file.write(data)

    with ThreadPoolExecutor(1, "write") as behind:
        written: Future[None] | None = None
        for key in order:
            data = _bytes_of(key, produce(key), layout[key])
            if written is not None:
                written.result()
            written = behind.submit(put, data)
        if written is not None:
            written.result()
    file.flush()
    os.fsync(file.fileno())
    return digest.hexdigest()


def _bytes_of(key: str, tensor: Tensor, entry: Entry) -> memoryview:
    if (tensor.dtype, tuple(tensor.shape)) != (entry.dtype, entry.shape):
        raise RuntimeError(f"tensor {key} came out as {tensor.dtype} {tuple(tensor.shape)}, not {entry}")
    # As bytes, because numpy knows no bfloat16; a scalar must get a dimension first.
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _write_failed(out: Path, size: int, error: OSError) -> InputError:
    return InputError(
        f"cannot write {out} ({size} bytes needed): {error.strerror or error}; make room or choose another "
        "folder and write it again; nothing that was there is changed"
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    # The new name must survive a power cut too.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
