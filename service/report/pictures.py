"""The same probes rendered by several checkpoints, as grids of small pictures inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from scoring.probes import Probe
from service.db.states import RenderState
from service.images import path_of
from service.report.contents import Comparison, Contender

LONGEST = 256
"""Pixels of a picture's longer side at most."""
QUALITY = 82


@dataclass(frozen=True)
class Column:
    """One probe of a grid. gain: of the winner over its best rival on this probe alone."""

    number: int
    probe: Probe
    gain: float | None


@dataclass(frozen=True)
class Row:
    """One checkpoint's pictures. images: a data URI each; None for one that is not there."""

    label: str
    score: float
    images: Sequence[str | None]
    is_winner: bool


@dataclass(frozen=True)
class Grid:
    """Some of the probes of a comparison, the one that the winner gains most on first."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    heldout: bool
    probes: int


class Pictures:
    """Makes grids from one folder of renders; a picture that is shown twice is read once."""

    def __init__(self, renders_dir: Path) -> None:
        self._renders_dir = renders_dir
        self._made: dict[str, str | None] = {}

    def grid(self, comparison: Comparison, columns: int) -> Grid:
        """The probes that the winner gains most on, and, where not all fit, the two at the other end."""
        ranked = _ranked(comparison)
        shown = ranked if len(ranked) <= columns else [*ranked[: columns - 2], *ranked[-2:]]
        return Grid(
            columns=shown,
            rows=[
                Row(
                    label=each.label,
                    score=each.score,
                    images=[self._image(each, column.number) for column in shown],
                    is_winner=each is comparison.winner,
                )
                for each in (*comparison.rivals, comparison.winner)
            ],
            heldout=comparison.heldout,
            probes=len(comparison.probes),
        )

    def _image(self, contender: Contender, probe: int) -> str | None:
        render = contender.renders.get(probe)
        if render is None or render.state is not RenderState.STORED:
            return None
        if render.sha256 not in self._made:
            self._made[render.sha256] = thumbnail(path_of(self._renders_dir, render.sha256))
        return self._made[render.sha256]


def thumbnail(path: Path) -> str | None:
    """A picture as a WebP data URI, scaled down where it is large; None when there is none to be read."""
    buffer = io.BytesIO()
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except OSError:
        return None
    small.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    small.save(buffer, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _ranked(comparison: Comparison) -> list[Column]:
    rival, winner = comparison.best_rival(), comparison.winner
    known = rival is not None and bool(rival.scores) and bool(winner.scores)
    columns = [
        Column(i, probe, winner.scores[i] - rival.scores[i] if rival is not None and known else None)
        for i, probe in enumerate(comparison.probes)
    ]
    return sorted(columns, key=lambda column: (-(column.gain or 0.0), column.number))
