"""How far the UNets of many checkpoints lie from each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from optimizer.checkpoints.architectures import expected_tensors
from optimizer.checkpoints.unets import open_unets

# Numbers of each file that are compared at a time: as float64 they stay in a core's cache.
_CHUNK = 1 << 16


def unet_distances(paths: Sequence[Path]) -> NDArray[np.float64]:
    """The L2 distance between the UNets of every two of N checkpoints of one architecture.

    The root of the summed squares of differences over all weights, so 0 for equal UNets and in the unit of
    the weights. Every file is read once, side by side with the others. Differences are taken and summed in
    float64, so near-identical models lose no digits, as they would in a matrix of products. Memory: one
    tensor of each file. Returns an array (N, N), symmetric, in the order of `paths`. Raises InputError for
    fewer than two files and for files that do not fit each other.
    """
    pairs = np.triu_indices(len(paths), k=1)
    squares = torch.zeros(len(pairs[0]), dtype=torch.float64)
    with open_unets(paths) as (architecture, files):
        for key in expected_tensors(architecture).unet:
            flat = [file.tensor(key).flatten() for file in files]
            for chunks in zip(*(torch.split(tensor, _CHUNK) for tensor in flat), strict=True):
                squares += torch.pdist(torch.stack([chunk.double() for chunk in chunks])).square()
    distances = np.zeros((len(paths), len(paths)))
    distances[pairs] = squares.sqrt().numpy()
    return distances + distances.T
