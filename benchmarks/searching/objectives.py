"""What is searched in simulation: functions of the 27 block weights, drawn from Gaussian processes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks.searching.gaussian_process import Array, Draw, Process, draw
from benchmarks.searching.histories import fitted
from optimizer.blocks import BLOCKS, BlockWeights

# A score with all its slopes, in trials. On the emoji zoo it is measured instead.
SLOPE_PRICE = 4.0


class Objective(Protocol):
    """One pair, as a search sees it."""

    @property
    def name(self) -> str: ...

    @property
    def blocks(self) -> Sequence[str]: ...

    @property
    def marks(self) -> Sequence[int]:
        """After how many renders the truth about the best-observed weights is asked."""
        ...

    @property
    def slope_price(self) -> float:
        """What a budget is charged for a score with slopes, in scores alone."""
        ...

    def observe(self, weights: BlockWeights) -> float:
        """The score that a search is told; the same for the same weights."""
        ...

    def observe_slopes(self, weights: BlockWeights) -> tuple[float, BlockWeights]:
        """That score, and its slope in every block weight."""
        ...

    def truth(self, weights: BlockWeights) -> float:
        """What the weights are worth: without noise, or on probes that no search saw."""
        ...

    def measured_price(self) -> float:
        """What a score with slopes cost so far, in scores alone."""
        ...


@dataclass(frozen=True)
class DrawnObjective:
    """A draw from a Gaussian process less `bowl` times the squared distance to `peak`, in its signal's units.

    noise: of an observation, in the same units. It is a function of the weights: a render is the same again.
    """

    name: str
    drawn: Draw
    noise: float
    bowl: float
    peak: Array
    marks: Sequence[int] = tuple(range(1, 101))
    blocks: Sequence[str] = BLOCKS
    slope_price: float = SLOPE_PRICE

    def observe(self, weights: BlockWeights) -> float:
        return self.truth(weights) + self.noise * _normal(self.name, weights)

    def observe_slopes(self, weights: BlockWeights) -> tuple[float, BlockWeights]:
        x = self._point(weights)
        slopes = self.drawn.slopes(x) - 2.0 * self.bowl * (x - self.peak)
        return self.observe(weights), dict(zip(self.blocks, map(float, slopes), strict=True))

    def truth(self, weights: BlockWeights) -> float:
        x = self._point(weights)
        return self.drawn.value(x) - self.bowl * float(((x - self.peak) ** 2).sum())

    def measured_price(self) -> float:
        return self.slope_price

    def _point(self, weights: BlockWeights) -> Array:
        return np.array([weights[block] for block in self.blocks])


def rough(histories: Path, number: int) -> DrawnObjective:
    """A posterior draw given history `number` (they take turns), with the process fitted to it alone."""
    known = fitted(histories)
    history = known[number % len(known)]
    drawn = draw(history.process, number, (history.points, history.scores))
    noise = history.process.noise / history.process.signal
    return DrawnObjective(f"rough/{number}", drawn, noise, 0.0, np.zeros(len(BLOCKS)))


def interior(number: int) -> DrawnObjective:
    """A prior draw with random length scales, and a bowl whose peak lies well inside the cube."""
    random = np.random.default_rng([number, 1])
    scales = np.exp(random.normal(np.log(1.5), 0.5, len(BLOCKS)))
    process = Process(scales, mean=0.0, signal=1.0, noise=0.2)
    peak = random.uniform(0.2, 0.8, len(BLOCKS))
    return DrawnObjective(f"interior/{number}", draw(process, number), process.noise, 0.5, peak)


def _normal(name: str, weights: BlockWeights) -> float:
    """A standard normal number that depends on the objective and on the weights alone."""
    text = f"{name}/{sorted((block, round(alpha, 9)) for block, alpha in weights.items())}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return float(np.random.default_rng(seed).standard_normal())
