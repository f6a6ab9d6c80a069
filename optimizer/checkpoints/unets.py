"""The UNets of several checkpoints side by side, and a checkpoint whose UNet is new."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from optimizer.blocks import UNET_PREFIX
from optimizer.checkpoints.architectures import TITLES, Architecture, expected_tensors
from optimizer.checkpoints.inspection import find_architecture
from optimizer.checkpoints.names import EMA_PREFIX, TEXT_PREFIXES, VAE_PREFIX
from optimizer.checkpoints.opening import open_checkpoint
from optimizer.checkpoints.parts import component_of
from optimizer.checkpoints.reading import CheckpointFile, Entry
from optimizer.checkpoints.writing import Sealed, write_streamed
from scoring.errors import InputError


@dataclass(frozen=True)
class Elsewhere:
    """A tensor that does not come from the file that gives the rest. make: from the dtype it is stored in."""

    entry: Entry
    make: Callable[[torch.dtype], Tensor]


_RENDERED_PREFIXES = (UNET_PREFIX, VAE_PREFIX, *TEXT_PREFIXES)


@contextmanager
def open_unets(paths: Sequence[Path]) -> Iterator[tuple[Architecture, list[CheckpointFile]]]:
    """Open two or more checkpoints of one architecture, each with its whole UNet.

    Raises InputError when there are fewer, a file cannot be read or lacks a UNet tensor, or two are of
    different architectures.
    """
    if len(paths) < 2:
        raise InputError(f"two or more checkpoints are needed, not {len(paths)}; name another one")
    with ExitStack() as stack:
        files = [stack.enter_context(open_checkpoint(path)) for path in paths]
        first, *others = files
        architecture = find_architecture(first)
        for file in others:
            other = find_architecture(file)
            if other != architecture:
                raise InputError(
                    f"{first.path.name} is {TITLES[architecture]} and {file.path.name} is {TITLES[other]}, "
                    "different architectures; choose models of one architecture"
                )
        for file in files:
            check_unet(file, architecture)
        yield architecture, files


def check_unet(file: CheckpointFile, architecture: str) -> None:
    """Raise InputError unless the file holds every UNet tensor of the architecture in its shape."""
    for key, shape in expected_tensors(architecture).unet.items():
        if key not in file.entries:
            raise InputError(f"{file.path.name} lacks {key}; use a complete checkpoint")
        if file.entries[key].shape != shape:
            raise InputError(f"{file.path.name}: {key} is {file.entries[key].shape} where {shape} is needed")


def write_with_unet(
    out: Path,
    rest: CheckpointFile,
    unet: Callable[[str], Tensor],
    *,
    architecture: str,
    metadata: Mapping[str, str],
    dtype: torch.dtype,
    parts: Mapping[str, Elsewhere] | None = None,
    sealed: Sealed | None = None,
) -> None:
    """Write a single-file checkpoint: the UNet by `unet`, key by key, and all else from `rest`.

    parts: every tensor of components that come from elsewhere, none of the UNet. Weights are rounded once to
    `dtype`; whole numbers and the noise schedule stay as they are; EMA copies are left out. sealed: see
    `write_streamed`. Raises InputError when the file cannot be written; an older
    `out` then stays as it was.
    """
    new, elsewhere = expected_tensors(architecture).unet, parts or {}
    replaced = {component_of(key) for key in elsewhere}
    kept = {
        key: entry
        for key, entry in rest.entries.items()
        if not key.startswith(EMA_PREFIX) and (component_of(key) is None or component_of(key) not in replaced)
    }
    entries = {**kept, **{key: part.entry for key, part in elsewhere.items()}}
    layout = {key: Entry(_stored_dtype(key, entry, dtype), entry.shape) for key, entry in entries.items()}

    def produce(key: str) -> Tensor:
        if key in elsewhere:
            return elsewhere[key].make(layout[key].dtype)
        tensor = unet(key) if key in new else rest.tensor(key)
        return tensor.to(layout[key].dtype)

    write_streamed(out, layout, produce, metadata, sealed)


def _stored_dtype(key: str, entry: Entry, dtype: torch.dtype) -> torch.dtype:
    # Whole numbers and the noise schedule are no weights: rounding them would break them.
    is_weight = entry.dtype.is_floating_point and key.startswith(_RENDERED_PREFIXES)
    return dtype if is_weight else entry.dtype
