"""A checkpoint seen under other names: nothing is converted or copied before a tensor is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from optimizer.checkpoints.reading import CheckpointFile, Entry
from scoring.errors import InputError


@dataclass(frozen=True)
class Origin:
    """Where a tensor of a view comes from."""

    file: CheckpointFile
    keys: tuple[str, ...]
    """More than one are laid one after the other, as open_clip keeps q, k and v in one tensor."""
    shape: tuple[int, ...] | None = None
    """The shape in the view, of as many numbers; None: as it is."""
    transposed: bool = False

    def entry(self) -> Entry:
        first = self.file.entries[self.keys[0]]
        rows = sum(self.file.entries[key].shape[0] for key in self.keys) if len(self.keys) > 1 else 0
        shape = (rows, *first.shape[1:]) if rows else first.shape
        shape = tuple(reversed(shape)) if self.transposed else shape
        if self.shape is not None and math.prod(self.shape) == math.prod(shape):
            # A shape of another size is left for the checks to name.
            shape = self.shape
        return Entry(first.dtype, shape)

    def tensor(self) -> Tensor:
        entry = self.entry()
        tensors = [self.file.tensor(key) for key in self.keys]
        tensor = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        return (tensor.T.contiguous() if self.transposed else tensor).to(entry.dtype).reshape(entry.shape)


def view(
    path: Path,
    origins: Mapping[str, Origin],
    metadata: Mapping[str, str],
    *,
    owned: Sequence[CheckpointFile] = (),
    unet_from_ema: bool = False,
) -> CheckpointFile:
    """A checkpoint whose tensors come from elsewhere. owned: files that are closed with it.

    Raises InputError when an origin is not in its file.
    """
    for origin in origins.values():
        lacking = [key for key in origin.keys if key not in origin.file.entries]
        if lacking:
            raise InputError(f"{path.name} lacks {lacking[0]}; use a complete model")

    def read_flat(key: str, start: int, stop: int, buffer: Tensor) -> Tensor:
        origin = origins[key]
        if len(origin.keys) == 1 and not origin.transposed:
            return origin.file.flat(origin.keys[0], start, stop, buffer)
        return origin.tensor().reshape(-1)[start:stop]

    closing = ExitStack()
    for file in owned:
        closing.enter_context(file)
    return CheckpointFile(
        path,
        {key: origin.entry() for key, origin in origins.items()},
        metadata,
        lambda key: origins[key].tensor(),
        closing.close,
        read_flat=read_flat,
        unet_from_ema=unet_from_ema,
    )


def identity(file: CheckpointFile) -> dict[str, Origin]:
    """Every tensor of a file under its own name."""
    return {key: Origin(file, (key,)) for key in file.entries}
