"""Opening a checkpoint file that may be anything: broken, hostile, or not a checkpoint at all.

Nothing in the file is ever executed. Tensors are read one at a time from a memory map.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scoring.display import shown
from scoring.errors import InputError
from scoring.torch_archives import LOAD_ERRORS, load_tensors

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

# The header of SDXL has 0.3 MB, with a long history of merges a few. The library's own limit, 100 MB, takes
# seconds and gigabytes to parse.
_MAX_HEADER = 25_000_000
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
    if not path.is_file():
        # To open a pipe is to wait for whoever writes to it.
        raise InputError(f"{path.name} is no file; give a .safetensors file")
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
        end = _end_of(entries.values())
        texts = {str(key): str(value) for key, value in metadata.items()}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"{path.name}: the header is damaged ({shown(error)}); {_AGAIN}") from error
    return entries, _check_total(path, size, end, texts)


def _header_bytes(path: Path, file: BinaryIO, size: int) -> bytes:
    length = int.from_bytes(file.read(8), "little")
    if size < 8:
        raise InputError(f"{path.name} is truncated: {size} bytes, not even a header; {_AGAIN}")
    if length > _MAX_HEADER or 8 + length > size:
        raise InputError(
            f"{path.name}: its header would be larger than the file ({length} bytes of header, "
            f"{size} bytes of file), so it is truncated or no safetensors file; {_AGAIN}"
            if 8 + length > size
            else f"{path.name}: its header has {length} bytes, {_MAX_HEADER} at most are read; {_AGAIN}"
        )
    return file.read(length)


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except _Twice as error:
        raise InputError(f"{path.name}: the header has {shown(error.key)} twice; {_AGAIN}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path.name}: the header is not JSON, so it is no safetensors file; {_AGAIN}"
        ) from error
    if not isinstance(header, dict):
        raise InputError(f"{path.name}: the header is not a table of tensors; {_AGAIN}")
    return header


class _Twice(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        # Readers differ in which of two they take: what was looked at would not be what is loaded.
        counts = Counter(key for key, _ in pairs)
        raise _Twice(counts.most_common(1)[0][0])
    return table


def _entry(value: Mapping[str, Any]) -> Entry:
    begin, end = value["data_offsets"]
    shape = tuple(value["shape"])
    if not all(type(number) is int and 0 <= number < 2**63 for number in (begin, end, *shape)):
        raise ValueError(f"shape {shape} and bytes {begin}..{end} are not whole numbers from 0")
    entry = Entry(DTYPES[value["dtype"]], shape, begin)
    if end - begin != entry.numel * entry.dtype.itemsize:
        raise ValueError(f"shape {entry.shape} does not fit the bytes {begin}..{end}")
    return entry


def _end_of(entries: Iterable[Entry]) -> int:
    """Where the last tensor ends. Raises ValueError unless they lie side by side, each byte in one."""
    end = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.numel)):
        if entry.begin != end:
            raise ValueError(
                f"bytes {min(end, entry.begin)}..{max(end, entry.begin)} are of no tensor or two"
            )
        end += entry.numel * entry.dtype.itemsize
    return end


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
    try:
        loaded = load_tensors(path, mmap=True)
    except InputError:
        raise
    except LOAD_ERRORS as error:
        raise InputError(
            f"{path.name} is a pickle that holds code or objects beside tensors, or is damaged; nothing of "
            "it was run; convert it to .safetensors where you trust it"
        ) from error
    tensors = _tensors_of(path, loaded)
    entries = {key: Entry(tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}
    return CheckpointFile(path, entries, {}, tensors.__getitem__, tensors.clear)


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
