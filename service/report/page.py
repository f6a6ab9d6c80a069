"""The report of a job: one HTML page that asks for nothing outside of itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from scoring.errors import InputError
from service.confidence import Gain
from service.db.store import Store
from service.durations import duration
from service.report.contents import (
    Comparison,
    Contender,
    Contents,
    blocks_shown,
    contents_of,
)
from service.report.pictures import Grid, Pictures
from service.report.plot import scores_plot
from service.report.tree import HEIGHT, WIDTH, draw
from service.results import beside_blocks
from service.settings import Settings

FINAL = "final model"
COLUMNS = 8
LEAVES_SHOWN = 4


@dataclass(frozen=True)
class GainRow:
    """A gain and its rival."""

    what: str
    rival: Contender
    heldout: bool
    gain: Gain


@dataclass(frozen=True)
class Scale:
    """The range that all intervals of the page are drawn on."""

    low: float
    high: float

    def percent(self, value: float) -> float:
        """Where a value lies, from 0 to 100."""
        return 100 * (value - self.low) / ((self.high - self.low) or 1.0)


def report_html(store: Store, settings: Settings, job_id: str, *, per_hour: float | None = None) -> str:
    """The report of a job, as far as it is.

    per_hour: what an hour of computing costs. Raises NotFound; InputError for a price below 0.
    """
    if per_hour is not None and not 0 <= per_hour < float("inf"):
        raise InputError(f"per hour {per_hour}: give what an hour costs, 0 or more")
    contents = contents_of(store, job_id)
    pictures = Pictures(settings.renders_dir)
    gains = list(_gain_rows(contents))
    plot = scores_plot(contents.searches)
    return _template().render(
        contents=contents,
        job=contents.job,
        grid=None if contents.result is None else pictures.grid(_with_room(contents.result), COLUMNS),
        node_grids=_node_grids(contents, pictures),
        gains=gains,
        scale=_scale(row.gain for row in gains),
        tree=draw([each.node for each in contents.nodes]),
        box=(WIDTH, HEIGHT),
        reports={each.node.name: each for each in contents.nodes},
        # Our own drawing, in which every name is escaped.
        plot=None if plot is None else Markup(plot),
        blocks=blocks_shown(contents.merges),
        beside_blocks=beside_blocks,
        final_name=FINAL,
        per_hour=per_hour,
        made_at=datetime.now(UTC),
        version=version("autombw"),
    )


def _node_grids(contents: Contents, pictures: Pictures) -> dict[int, Grid]:
    """Node id -> its grid; none where the page's first one shows the same."""
    shown = [each for each in contents.merges if each.comparison is not None]
    if len(contents.merges) == 1:
        return {}
    return {each.node.id: pictures.grid(each.comparison, COLUMNS) for each in shown if each.comparison}


def _with_room(result: Comparison) -> Comparison:
    """A result with so many leaves as there is room for in a picture, the best ones."""
    leaves = [rival for rival in result.rivals if rival.role == "leaf"]
    others = [rival for rival in result.rivals if rival.role != "leaf"]
    return replace(result, rivals=[*leaves[:LEAVES_SHOWN], *others])


def _gain_rows(contents: Contents) -> Iterator[GainRow]:
    """The final model above the best leaf and the average, then every merge above its best rival."""
    result = contents.result
    if result is not None and result.heldout:
        best_leaf = next((rival for rival in result.rivals if rival.role == "leaf"), None)
        average = next((rival for rival in result.rivals if rival.role == "average"), None)
        for rival in (best_leaf, average):
            yield from _gain_row(FINAL, result, rival)
    for each in contents.merges:
        if each.comparison is not None:
            yield from _gain_row(each.node.name, each.comparison, each.comparison.best_rival())


def _gain_row(what: str, comparison: Comparison, rival: Contender | None) -> Iterator[GainRow]:
    gain = comparison.gain(rival)
    if rival is None or gain is None:
        return
    if not comparison.heldout:
        # The winner was chosen on these very probes: an interval would pretend to know more.
        gain = replace(gain, low=None, high=None)
    yield GainRow(what, rival, comparison.heldout, gain)


def _scale(gains: Iterable[Gain]) -> Scale:
    ends = [0.0]
    for gain in gains:
        ends += [end for end in (gain.value, gain.low, gain.high) if end is not None]
    margin = 0.05 * (max(ends) - min(ends))
    return Scale(min(ends) - margin, max(ends) + margin)


def _template() -> Template:
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "signed": _signed, "duration": duration}
    return environment.get_template("report.html")


def _number(value: float | None) -> str:
    """Four digits behind the point, or as many as tell large numbers apart."""
    return "–" if value is None else f"{value:.4f}" if abs(value) < 100 else f"{value:.6g}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{'+' if value >= 0 else '−'}{_number(abs(value))}"
