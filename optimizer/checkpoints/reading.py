"""Opening a checkpoint file that may be anything: broken, hostile, or not a checkpoint at all.

Nothing in the file is ever executed. Tensors are read one at a time from a memory map.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scoring.errors import InputError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of the safetensors format that a checkpoint may use."""
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

# The limit of the safetensors library itself; the header of SDXL has 0.3 MB.
_MAX_HEADER = 100_000_000
# data.pkl of a 5 GB checkpoint has 0.5 MB.
_MAX_PICKLE = 64_000_000
# What torch.load raises on a pickle that is refused or damaged.
_LOAD_ERRORS = (pickle.UnpicklingError, RuntimeError, ValueError, TypeError, KeyError, EOFError, OSError)
_AGAIN = "download or copy it again"


@dataclass(frozen=True)
class Entry:
    """What the header says of one tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int = field(default=0, compare=False)
    """Where its bytes begin, counted from the end of the header."""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


FlatReader = Callable[[str, int, int, Tensor], Tensor]
"""(key, start, stop, buffer) -> numbers; see `CheckpointFile.flat`."""


class CheckpointFile:
    """An open checkpoint: `entries` and `metadata` from its header, tensors on demand. Use with `with`."""

    def __init__(
        self,
        path: Path,
        entries: Mapping[str, Entry],
        metadata: Mapping[str, str],
        read: Callable[[str], Tensor],
        close: Callable[[], None],
        *,
        read_flat: FlatReader | None = None,
        unet_from_ema: bool = False,
    ) -> None:
        self.path = path
        self.entries = entries
        self.metadata = metadata
        self._read = read
        self._close = close
        self._read_flat = read_flat
        self.unet_from_ema = unet_from_ema
        """The file holds no UNet but the EMA copy of one, which is read in its place."""

    def tensor(self, key: str) -> Tensor:
        """One tensor on the CPU. It may be a view of the file: copy what is to outlive it."""
        return self._read(key)

    def flat(self, key: str, start: int, stop: int, buffer: Tensor) -> Tensor:
        """The numbers start..stop of a tensor laid flat, in the file's dtype; safe to call from many threads.

        buffer: uint8, at least as long as these numbers; what is returned may lie in it and then lasts until
        the buffer is used again. Unlike `tensor` this maps nothing, so memory stays at the buffer's size.
        """
        if self._read_flat is not None:
            return self._read_flat(key, start, stop, buffer)
        return self._read(key).reshape(-1)[start:stop]

    def __enter__(self) -> CheckpointFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


def open_file(path: Path) -> CheckpointFile:
    """Open a `.safetensors` file, or a `.ckpt` that holds nothing but tensors, with the keys that it has.

    Raises InputError for what is missing, empty, truncated, no checkpoint, or holds code.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path.name} does not exist in {path.parent}; check the name")
    if path.stat().st_size == 0:
        raise InputError(f"{path.name} is empty (0 bytes); {_AGAIN}")
    with path.open("rb") as file:
        start = file.read(9)
    # A safetensors file begins with the length of its header, which may look like any magic number.
    is_safetensors = start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _MAX_HEADER
    if start.startswith(b"PK\x03\x04") and not is_safetensors:
        return _open_torch_zip(path)
    if start.startswith(b"\x80") and not is_safetensors:
        raise InputError(
            f"{path.name} is a bare pickle, which can run code when opened, so it was not; "
            "convert it to .safetensors where you trust it"
        )
    return _open_safetensors(path)


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Entries and metadata of a safetensors file, proven against the size of the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = _parse_header(path, _header_bytes(path, file, size))
    metadata = header.pop("__metadata__", {})
    try:
        entries = {key: _entry(value) for key, value in header.items()}
        end = max((value["data_offsets"][1] for value in header.values()), default=0)
        texts = {str(key): str(value) for key, value in metadata.items()}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"{path.name}: the header is damaged ({error!r}); {_AGAIN}") from error
    return entries, _check_total(path, size, end, texts)


def _header_bytes(path: Path, file: BinaryIO, size: int) -> bytes:
    length = int.from_bytes(file.read(8), "little")
    if size < 8:
        raise InputError(f"{path.name} is truncated: {size} bytes, not even a header; {_AGAIN}")
    if length > _MAX_HEADER or 8 + length > size:
        raise InputError(
            f"{path.name}: its header would be larger than the file ({length} bytes of header, "
            f"{size} bytes of file), so it is truncated or no safetensors file; {_AGAIN}"
        )
    return file.read(length)


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path.name}: the header is not JSON, so it is no safetensors file; {_AGAIN}"
        ) from error
    if not isinstance(header, dict):
        raise InputError(f"{path.name}: the header is not a table of tensors; {_AGAIN}")
    return header


def _entry(value: Mapping[str, Any]) -> Entry:
    begin, end = value["data_offsets"]
    entry = Entry(DTYPES[value["dtype"]], tuple(int(number) for number in value["shape"]), begin)
    if end - begin != entry.numel * entry.dtype.itemsize or begin < 0:
        raise ValueError(f"shape {entry.shape} does not fit the bytes {begin}..{end}")
    return entry


def _check_total(path: Path, size: int, end: int, metadata: dict[str, str]) -> dict[str, str]:
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
    if start + end != size:
        word = "truncated" if start + end > size else "too long"
        raise InputError(
            f"{path.name} is {word}: its header tells of {start + end} bytes, it has {size}; {_AGAIN}"
        )
    return metadata


def _open_safetensors(path: Path) -> CheckpointFile:
    entries, metadata = read_header(path)
    try:
        handle = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path.name} cannot be read as safetensors ({error}); {_AGAIN}") from error
    descriptor = os.open(path, os.O_RDONLY)
    start = 8 + int.from_bytes(os.pread(descriptor, 8, 0), "little")

    def read_flat(key: str, first: int, stop: int, buffer: Tensor) -> Tensor:
        entry = entries[key]
        width = entry.dtype.itemsize
        wanted = buffer[: (stop - first) * width]
        at = start + entry.begin + first * width
        if os.preadv(descriptor, [wanted.numpy().data], at) != len(wanted):
            raise InputError(f"{path.name} became shorter while it was read; {_AGAIN}")
        return wanted.view(entry.dtype)

    # The map is given back with the last tensor that looks into it.
    return CheckpointFile(
        path, entries, metadata, handle.get_tensor, lambda: os.close(descriptor), read_flat=read_flat
    )


def _open_torch_zip(path: Path) -> CheckpointFile:
    _check_zip(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except _LOAD_ERRORS as error:
        raise InputError(
            f"{path.name} is a pickle that holds code or objects beside tensors, or is damaged; nothing of "
            "it was run; convert it to .safetensors where you trust it"
        ) from error
    tensors = _tensors_of(path, loaded)
    entries = {key: Entry(tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}
    return CheckpointFile(path, entries, {}, tensors.__getitem__, tensors.clear)


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(f"{path.name} is a truncated or damaged .ckpt ({error}); {_AGAIN}") from error
    # torch stores its members uncompressed; what unpacks to more than the file is a bomb.
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    pickles = sum(member.file_size for member in members if member.filename.endswith(".pkl"))
    if packed or pickles > _MAX_PICKLE or sum(member.file_size for member in members) > path.stat().st_size:
        raise InputError(
            f"{path.name} is no checkpoint written by torch (packed or oversized members); {_AGAIN}"
        )


def _tensors_of(path: Path, loaded: object) -> dict[str, Tensor]:
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise InputError(
            f"{path.name} holds a {type(loaded).__name__}, not a table of tensors; give a checkpoint"
        )
    tensors = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    for key, tensor in tensors.items():
        # A few bytes with strides of 0 can pose as terabytes.
        if tensor.layout != torch.strided or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise InputError(f"{path.name}: tensor {key!r} is larger than its data; {_AGAIN}")
    return tensors
