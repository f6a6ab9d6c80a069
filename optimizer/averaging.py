"""The uniform merge of many checkpoints: the mean of their UNets in one file.

It costs no search and is what every bracket has to beat (model soups, Wortsman et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from optimizer.checkpoints.reading import CheckpointFile
from optimizer.checkpoints.unets import open_unets, write_with_unet
from optimizer.checkpoints.writing import Sealed

# So many summands keep the error of an fp32 sum far below what rounding to half precision costs.
_MOST_IN_FP32 = 8


def export_average(
    paths: Sequence[Path],
    out: Path,
    *,
    metadata: Mapping[str, str],
    dtype: torch.dtype = torch.float16,
    sealed: Sealed | None = None,
) -> None:
    """Write the mean of the UNets of two or more files as a single-file checkpoint.

    Tensor by tensor from the memory maps, summed in fp32 (more than 8 files: in fp64), rounded once to
    `dtype`. VAE, text encoder and whatever else the first file holds come from there; EMA copies are left
    out. Memory: the largest tensor, a few times over. sealed: see `write_streamed`. Raises InputError for
    fewer than two files, files that do not fit each other, and when the file cannot be written; an older
    `out` then stays as it was.
    """
    with open_unets(paths) as (architecture, files):
        write_with_unet(
            out,
            files[0],
            lambda key: _mean(files, key),
            architecture=architecture,
            metadata=metadata,
            dtype=dtype,
            sealed=sealed,
        )


def _mean(files: Sequence[CheckpointFile], key: str) -> Tensor:
    exact = torch.float32 if len(files) <= _MOST_IN_FP32 else torch.float64
    total = files[0].tensor(key).to(exact, copy=True)
    for file in files[1:]:
        total += file.tensor(key).to(exact)
    return total / len(files)
