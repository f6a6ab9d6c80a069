"""Distances as a picture and as a statistic: classical MDS, and the Mantel test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from scoring.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Matrix = NDArray[np.float64]
Box = tuple[float, float, float, float]
"""Left, low, right, high, in pixels."""
Arrow = tuple[int, int]
"""(parent, child), as places among the labels."""

# How far an arrow bends, as a share of its length.
_BEND = 0.08
# Rounding makes two distances that are equal differ by this share.
_ASYMMETRY = 1e-9


@dataclass(frozen=True)
class Map:
    """Points whose distances are as near to the given ones as so few dimensions allow.

    points: (N, dimensions), centred, first axis the longest. kept: the share of all squared distances that
    these dimensions show, in [0, 1].
    """

    points: Matrix
    kept: float


@dataclass(frozen=True)
class Mantel:
    """Spearman's correlation of two distance matrices, and how often chance gives as much."""

    correlation: float
    p_value: float
    """Share of permutations with as high a correlation, one-sided, the observed order counted as one."""
    permutations: int


def classical_mds(distances: Matrix, dimensions: int = 2) -> Map:
    """Place N points by their distances (N, N): classical multidimensional scaling.

    Torgerson, "Multidimensional scaling: I. Theory and method", Psychometrika 17 (1952): the doubly centred
    matrix of squared distances, B = -1/2 J D^2 J, holds the inner products of the points; its eigenvectors,
    scaled by the roots of their eigenvalues, are their coordinates. Signs are fixed so that the same input
    gives the same map. Raises InputError for what is no distance matrix.
    """
    squares = _checked(distances) ** 2
    count = len(squares)
    centring = np.eye(count) - 1 / count
    products = -centring @ squares @ centring / 2
    values, vectors = np.linalg.eigh((products + products.T) / 2)
    order = np.argsort(values)[::-1][:dimensions]
    points = vectors[:, order] * np.sqrt(np.maximum(values[order], 0))
    points = np.pad(points, ((0, 0), (0, dimensions - points.shape[1])))
    largest = points[np.abs(points).argmax(axis=0), np.arange(dimensions)]
    total = np.maximum(values, 0).sum()
    return Map(points * np.where(largest < 0, -1, 1), float((points**2).sum() / total) if total else 1.0)


def mantel(a: Matrix, b: Matrix, permutations: int = 9999, seed: int = 0) -> Mantel:
    """Whether two distance matrices (N, N) of the same N things agree: Spearman's rho and a Mantel test.

    Mantel, "The detection of disease clustering and a generalized regression approach", Cancer Research 27
    (1967), on ranks: the things of one matrix are shuffled, rows and columns alike, since its N(N-1)/2
    entries are not independent. Ties share their mean rank. Raises InputError for matrices of unlike size,
    fewer than three things, or a matrix whose distances are all equal.
    """
    a, b = _checked(a), _checked(b)
    if a.shape != b.shape or len(a) < 3:
        raise InputError(
            f"matrices of {len(a)} and {len(b)} things cannot be compared; give the same three or more"
        )
    if permutations < 1:
        raise InputError(f"{permutations} permutations tell nothing; give one or more")
    upper = np.triu_indices(len(a), k=1)
    ranks = _standardised(rankdata(a[upper]))
    ranked = np.zeros_like(b)
    ranked[upper] = _standardised(rankdata(b[upper]))
    ranked += ranked.T
    observed = float(ranks @ ranked[upper])
    generator = np.random.default_rng(seed)
    reached = 1
    for _ in range(permutations):
        order = generator.permutation(len(a))
        # Equal orders must count as equal whatever the order of summation.
        reached += bool(ranks @ ranked[np.ix_(order, order)][upper] >= observed - 1e-12)
    return Mantel(observed, reached / (permutations + 1), permutations)


def draw_map(
    out: Path, found: Map, labels: Sequence[str], arrows: Sequence[Arrow] = (), title: str = ""
) -> None:
    """Draw a map as PNG: a labelled point a model, an arrow from each parent to its child.

    Raises InputError when the file cannot be written.
    """
    # matplotlib takes a second to import, and its figure without pyplot needs no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    points = found.points
    children = {child for _, child in arrows}
    for parent, child in arrows:
        axes.annotate(
            "",
            xy=points[child],
            xytext=points[parent],
            arrowprops={
                "arrowstyle": "-|>",
                "color": "#8a94a6",
                "lw": 1.1,
                "shrinkA": 6,
                "shrinkB": 6,
                "connectionstyle": f"arc3,rad={_BEND}",
            },
        )
    for kind, colour in ((False, "#2563eb"), (True, "#d97706")):
        chosen = [place for place in range(len(labels)) if (place in children) is kind]
        if chosen:
            name = "merged from others here" if kind else "model"
            axes.scatter(points[chosen, 0], points[chosen, 1], s=42, color=colour, zorder=3, label=name)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.16)
    axes.grid(alpha=0.25, lw=0.6)
    axes.tick_params(labelsize=8, colors="#5b6472")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel(
        f"unit of the weights; these two axes show {found.kept:.0%} of the squared distances", fontsize=8
    )
    axes.set_title(title, fontsize=11, loc="left")
    if children:
        axes.legend(fontsize=8, frameon=False, loc="best")
    _label(figure, axes, points, labels, arrows)
    try:
        figure.savefig(out)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot write the map {out} ({error}); give a .png in a folder that exists"
        ) from error


def _label(
    figure: Figure, axes: Axes, points: Matrix, labels: Sequence[str], arrows: Sequence[Arrow]
) -> None:
    """Write each label beside its point, where it covers least; a line leads to one that lies farther off."""
    figure.draw_without_rendering()  # lays out the axes: from here on points have their pixels
    pixels = axes.transData.transform(points)
    scale = figure.dpi / 72
    taken = [_square(point, 5 * scale) for point in pixels]
    for parent, child in arrows:
        taken += [_square(point, 2 * scale) for point in _arc(pixels[parent], pixels[child])]
    frame = axes.get_window_extent().bounds
    for place in sorted(range(len(labels)), key=lambda place: -pixels[place][1]):
        text = axes.annotate(labels[place], points[place], fontsize=9, zorder=4, ha="left", va="bottom")
        size = text.get_window_extent()
        boxes = [_beside(pixels[place], size.width, size.height, *reach) for reach in _reaches(scale)]
        costs = [_cost(box, taken, frame) + 0.004 * number for number, box in enumerate(boxes)]
        best = boxes[int(np.argmin(costs))]
        taken.append(best)
        text.xyann = (best[0] - pixels[place][0], best[1] - pixels[place][1])
        text.anncoords = "offset pixels"
        edge = np.clip(pixels[place], best[:2], best[2:])
        if np.hypot(*(edge - pixels[place])) > 12 * scale:
            ends = axes.transData.inverted().transform([pixels[place], edge])
            axes.plot(ends[:, 0], ends[:, 1], color="#aab3c2", lw=0.8, zorder=1)


def _square(point: Matrix, half: float) -> Box:
    return point[0] - half, point[1] - half, point[0] + half, point[1] + half


def _arc(start: Matrix, end: Matrix) -> list[Matrix]:
    """Points on matplotlib's `arc3`: a quadratic curve, its middle beside the straight line."""
    across = end - start
    middle = (start + end) / 2 + _BEND * np.array([across[1], -across[0]])
    shares = np.linspace(0, 1, 40)
    return [(1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end for t in shares]


def _reaches(scale: float) -> list[tuple[float, float]]:
    """(distance in pixels, angle) of the places beside a point, best first: near ones, then to the right."""
    turns = [0, 180, 90, 270, 45, 135, 315, 225, 20, 160, 340, 200]
    return [(points * scale, np.deg2rad(turn)) for points in (8, 18, 30, 44, 60) for turn in turns]


def _beside(point: Matrix, width: float, height: float, distance: float, angle: float) -> Box:
    """The box of a label whose edge nearest to the point lies in this direction."""
    across, up = np.cos(angle), np.sin(angle)
    x = point[0] + distance * across + (across - 1) / 2 * width
    y = point[1] + distance * up + (up - 1) / 2 * height
    return x, y, x + width, y + height


def _cost(box: Box, taken: Sequence[Box], frame: tuple[float, float, float, float]) -> float:
    """The share of a label that covers points and labels, and what sticks out of the axes, ten times."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    covered = sum(_overlap(box, other) for other in taken)
    left, low, width, height = frame
    outside = area - _overlap(box, (left, low, left + width, low + height))
    return (covered + 10 * outside) / area


def _overlap(a: Box, b: Box) -> float:
    across, up = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(across, 0.0) * max(up, 0.0)


def _checked(distances: Matrix) -> Matrix:
    found = np.asarray(distances, dtype=np.float64)
    if found.ndim != 2 or found.shape[0] != found.shape[1] or len(found) < 2:
        raise InputError(f"a distance matrix is square and of two or more things, not {found.shape}")
    if not np.isfinite(found).all() or (found < 0).any() or np.diag(found).any():
        raise InputError("a distance matrix has finite distances from 0 up, and 0 on its diagonal")
    if np.abs(found - found.T).max() > _ASYMMETRY * max(found.max(), 1e-300):
        raise InputError("a distance matrix is symmetric: from a to b is as far as from b to a")
    return found


def _standardised(ranks: Matrix) -> Matrix:
    centred = ranks - ranks.mean()
    length = np.linalg.norm(centred)
    if not length:
        raise InputError("all distances of a matrix are equal, so nothing can correlate with them")
    return np.asarray(centred / length)
