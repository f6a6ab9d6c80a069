"""The histories of auto-MBW-rt in a folder, as data for a Gaussian process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.searching.gaussian_process import Array, Process, fit
from optimizer.blocks import BLOCKS
from optimizer.formats.mbwrt_history import read_history
from scoring.errors import InputError


@dataclass(frozen=True)
class Fitted:
    """A history: weights (N, 27) in the order of BLOCKS, scores (N,), and the process fitted to them."""

    name: str
    points: Array
    scores: Array
    process: Process


@cache
def fitted(folder: Path) -> tuple[Fitted, ...]:
    """All histories of a folder, by name. Raises InputError where there is none."""
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise InputError(f"{folder} holds no history (*.csv) of auto-MBW-rt; give the folder that does")
    return tuple(_fitted(file) for file in files)


def _fitted(file: Path) -> Fitted:
    trials = read_history(file).distinct
    points = np.array([[trial.weights[block] for block in BLOCKS] for trial in trials])
    scores = np.array([trial.score for trial in trials])
    return Fitted(file.stem, points, scores, fit(points, scores))
