"""Every node's scores over its trials in one picture, as SVG that takes the page's colours."""

from __future__ import annotations

import io
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optimizer.search import BASELINES

# matplotlib takes a second to import, which only a report need pay.
if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2f81f7", "#e8710a", "#1a9c5b", "#b458d8", "#d6336c", "#0e9db5", "#a07c00")
INK = "#010203"
"""Drawn instead of the colour of the text, and replaced by it."""
SHAPES_AT_MOST = 2500
"""More dots than this are drawn as one embedded picture: as shapes they would weigh megabytes."""
FAILED = "#d1242f"
SCORE_HEIGHT, WATCHED_HEIGHT = 4.2, 1.5
"""Of the axes, in inches."""
_GAP = 2
_drawing = threading.Lock()


@dataclass(frozen=True)
class Search:
    """The search of one node. scores: by trial number; None where a trial has none.

    watched: watching scorer -> its mean by trial number. warned: the trials that the watch warns of.
    estimates: of the trials that were stopped early, by number.
    """

    name: str
    scores: Sequence[float | None]
    watched: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    warned: Collection[int] = ()
    estimates: Mapping[int, float] = field(default_factory=dict)


def scores_plot(searches: Sequence[Search]) -> str | None:
    """An inline SVG: the searches side by side in their order, a dot for every trial, a line for the best.

    Trials that were stopped early are hollow, at their estimate; those that failed are marked at the bottom.
    Below, in axes of its own, every watching scorer's mean; trials that the watch warns of are ringed in all
    of them. None where no trial has a score.
    """
    shown = [search for search in searches if any(score is not None for score in search.scores)]
    if not shown:
        return None
    import matplotlib
    from matplotlib.figure import Figure

    # These settings belong to the process, and the service draws in several threads.
    with _drawing, matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "autombw"}):
        watched = list(dict.fromkeys(name for search in shown for name in search.watched))
        height = SCORE_HEIGHT + WATCHED_HEIGHT * len(watched)
        figure = Figure(figsize=(10.4, height), layout="constrained", facecolor="none")
        rows = [SCORE_HEIGHT, *[WATCHED_HEIGHT] * len(watched)]
        axes, *others = figure.subplots(len(rows), sharex=True, squeeze=False, height_ratios=rows)[:, 0]
        _draw(axes, shown)
        for other, name in zip(others, watched, strict=True):
            _draw_watched(other, shown, name)
        [axes, *others][-1].set_xlabel("trials, node by node", color=INK)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, dpi=144)
    svg = buffer.getvalue().replace(INK, "currentColor")
    return svg[svg.index("<svg") :]


def _draw(axes: Axes, searches: Sequence[Search]) -> None:
    few = sum(len(search.scores) for search in searches) <= SHAPES_AT_MOST
    left = 0
    for number, search in enumerate(searches):
        colour = COLOURS[number % len(COLOURS)]
        _draw_search(axes, search, left, colour, as_shapes=few)
        axes.text(
            left + (len(search.scores) - 1) / 2,
            1.01,
            search.name,
            transform=axes.get_xaxis_transform(),
            ha="center",
            color=colour,
            fontweight="bold",
            parse_math=False,
        )
        left += len(search.scores) + _GAP
    axes.set_xlim(-1.5, left - _GAP + 0.5)
    _dress(axes, "score on the search probes")


def _draw_watched(axes: Axes, searches: Sequence[Search], name: str) -> None:
    left = 0
    few = sum(len(search.scores) for search in searches) <= SHAPES_AT_MOST
    for number, search in enumerate(searches):
        known = [
            (left + i, value) for i, value in enumerate(search.watched.get(name, [])) if value is not None
        ]
        colour = COLOURS[number % len(COLOURS)]
        axes.scatter(*_columns(known), color=colour, alpha=0.55, s=10, linewidths=0, rasterized=not few)
        _ring(axes, known, left, search.warned)
        left += len(search.scores) + _GAP
    _dress(axes, name)


def _ring(axes: Axes, points: Sequence[tuple[float, float]], left: int, warned: Collection[int]) -> None:
    found = [(x, y) for x, y in points if x - left in warned]
    axes.scatter(*_columns(found), facecolors="none", edgecolors=FAILED, s=52, linewidths=1.2, zorder=4)


def _dress(axes: Axes, label: str) -> None:
    axes.set_facecolor("none")
    axes.set_ylabel(label, color=INK, parse_math=False)
    axes.set_xticks([])
    axes.tick_params(colors=INK)
    axes.grid(axis="y", color="#888888", alpha=0.25, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#888888")


def _draw_search(axes: Axes, search: Search, left: int, colour: str, *, as_shapes: bool) -> None:
    done = [(left + i, score) for i, score in enumerate(search.scores) if score is not None]
    stopped = [(left + i, score) for i, score in search.estimates.items()]
    failed = [
        left + i for i, score in enumerate(search.scores) if score is None and i not in search.estimates
    ]
    proposed = [(x, score) for x, score in done if x - left >= len(BASELINES)]
    baselines = [(x, score) for x, score in done if x - left < len(BASELINES)]
    style: dict[str, Any] = {"s": 16, "linewidths": 1.0, "rasterized": not as_shapes, "zorder": 2}
    axes.scatter(*_columns(proposed), color=colour, alpha=0.55, **style)
    axes.scatter(*_columns(baselines), facecolors="none", edgecolors=colour, marker="D", **style)
    axes.scatter(*_columns(stopped), facecolors="none", edgecolors=colour, alpha=0.55, **style)
    _ring(axes, done, left, search.warned)
    axes.step(*_columns(_best_so_far(done)), where="post", color=colour, linewidth=1.8, zorder=3)
    axes.scatter(
        failed,
        [0.015] * len(failed),
        marker="x",
        color=FAILED,
        s=18,
        linewidths=1.2,
        transform=axes.get_xaxis_transform(),
    )


def _best_so_far(done: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Where the best score changes, and the end."""
    changes: list[tuple[float, float]] = []
    for x, score in done:
        if not changes or score > changes[-1][1]:
            changes.append((x, score))
    return [*changes, (done[-1][0], changes[-1][1])]


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
