"""The uniform merge of many checkpoints: the mean of their UNets, text encoders or VAEs in one file.

It costs no search and is what every bracket has to beat (model soups, Wortsman et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from optimizer.checkpoints.parts import Component
from optimizer.checkpoints.writing import Sealed
from optimizer.components import average


def export_average(
    paths: Sequence[Path],
    out: Path,
    *,
    metadata: Mapping[str, str],
    dtype: torch.dtype = torch.float16,
    components: Sequence[Component] = ("unet",),
    sealed: Sealed | None = None,
) -> None:
    """Write the mean of the UNets (or of other components too) of two or more files as one checkpoint.

    Summed in fp32 (more than 8 files: in fp64), rounded once to `dtype`. What is not averaged and whatever
    else the first file holds come from there; EMA copies are left out. Memory: two of the largest tensor.
    sealed: see `write_streamed`. Raises InputError for fewer than two files, files that do not fit each
    other, and when the file cannot be written; an older `out` then stays as it was.
    """
    average(paths, components, out, metadata=metadata, dtype=dtype, sealed=sealed)
