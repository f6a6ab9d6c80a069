"""Checkpoint files for the tests: small ones with random weights, big ones that are only a header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from optimizer.checkpoints import expected_tensors, write_checkpoint


@lru_cache(maxsize=4)
def random_tensors(seed: int, dtype: torch.dtype = torch.float32) -> Mapping[str, Tensor]:
    """A random-weight zoo checkpoint: the topology of SD with a 5 M UNet. Shared: clone what you change."""
    generator = torch.Generator().manual_seed(seed)
    shapes = expected_tensors("emoji").all
    return {key: (torch.randn(shape, generator=generator) * 0.05).to(dtype) for key, shape in shapes.items()}


def write_random(
    path: Path,
    seed: int,
    dtype: torch.dtype = torch.float32,
    *,
    changes: Mapping[str, Tensor | None] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a random-weight zoo checkpoint; `changes` replaces, adds or (None) removes tensors."""
    tensors: dict[str, Tensor | None] = {**random_tensors(seed, dtype), **(changes or {})}
    kept = {key: tensor for key, tensor in tensors.items() if tensor is not None}
    write_checkpoint(path, kept, metadata or {})
    return path


def write_header_only(
    path: Path, architecture: str, extra: Mapping[str, tuple[int, ...]] | None = None
) -> Path:
    """A file of the true shapes and size whose data is a hole: it takes no disk and no time."""
    offset, header = 0, {}
    for key, shape in {**expected_tensors(architecture).all, **(extra or {})}.items():
        size = 2 * torch.Size(shape).numel()
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    return path
