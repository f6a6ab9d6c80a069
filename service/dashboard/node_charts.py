"""The charts of a node, as ECharts options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import numpy as np

from optimizer.blocks import BLOCKS, BlockWeights
from optimizer.elements import is_element
from service.dashboard.charts import Options, axis, legend, tooltip
from service.dashboard.node_topics import NodeView, blocks_in_order
from service.dashboard.texts import number, shorter
from service.dashboard.theme import Palette
from service.durations import duration
from service.results import BASELINE_NAMES

TOP = 10
"""How many of the best trials stand behind the best."""
BASELINES = {"a": "A", "b": "B", "uniform": "uniform"}
STAGES = ("propose", "merge", "render", "score", "store")
POINTS = 600
"""So many trials a chart draws at most, thinned evenly: more are no more to be seen, and every browser gets
them anew with every trial. Series are tuples: NiceGUI watches every list of a chart for changes, which for
thousands of points takes longer than all else."""
Point = TypeVar("Point")


def thinned(points: Sequence[Point]) -> tuple[tuple[Point, ...], int]:
    """(At most POINTS of these, evenly spaced and with the last; of how many each stands for one).

    Spacings double, so that what is drawn does not jump about with every trial.
    """
    step = 1
    while len(points) > step * POINTS:
        step *= 2
    kept = tuple(points[::step])
    return (kept if (len(points) - 1) % step == 0 or not points else (*kept, points[-1])), step


def progress_chart(view: NodeView, palette: Palette, *, by_renders: bool) -> Options:
    """Every trial's score, the best so far as a line, what has to be beaten as lines across."""
    x = view.renders_by_then if by_renders else [trial.number for trial in view.searched]
    points = [(at, trial) for at, trial in zip(x, view.searched, strict=True) if trial.score is not None]
    highest = accumulate((trial.score or 0.0 for _, trial in points), max)
    best = [(at, score) for (at, _), score in zip(points, highest, strict=True)]
    shown, each = thinned([(at, trial.score) for at, trial in points])
    every = "trial" if each == 1 else f"one of {each} trials"
    colours = {"a": palette.a, "b": palette.b, "uniform": palette.uniform}
    lines = [
        _across(f"{BASELINES[name]} {number(score)}", score, colours[name])
        for name in BASELINE_NAMES
        if (score := view.progress.scores.get(f"search/{name}")) is not None
    ]
    values = [trial.score or 0.0 for _, trial in points] + [line["yAxis"] for line in lines]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    heldout = view.progress.scores.get("heldout/winner")
    # Other probes, other numbers: one that lies far off would press all else into a line.
    if heldout is not None and low - (high - low) <= heldout <= high + (high - low):
        lines.append(_across(f"held-out {number(heldout)}", heldout, palette.good, "dotted"))
        low, high = min(low, heldout), max(high, heldout)
    room = 0.06 * (high - low) or 0.01
    warned, _ = thinned([(at, trial.score) for at, trial in points if trial.warnings])
    return {
        "grid": {"left": 8, "right": 96, "top": 36, "bottom": 26, "containLabel": True},
        "tooltip": tooltip(palette),
        "xAxis": axis(
            palette, name="images rendered" if by_renders else "trial", min=0, splitLine={"show": False}
        ),
        "yAxis": axis(
            palette,
            min=round(low - room, 6),
            max=round(high + room, 6),
            axisLabel={"color": palette.soft, "fontSize": 11, "showMinLabel": False, "showMaxLabel": False},
        ),
        "series": [
            {
                "name": every,
                "type": "scatter",
                "data": shown,
                "symbolSize": 6,
                "itemStyle": {"color": palette.soft, "opacity": 0.55},
            },
            {
                "name": "best so far",
                "type": "line",
                "step": "end",
                "data": _steps(best),
                "symbol": "none",
                "lineStyle": {"width": 2.5, "color": palette.accent},
                "itemStyle": {"color": palette.accent},
                "markLine": {
                    "symbol": "none",
                    "silent": True,
                    "animation": False,
                    # ECharts would draw them at values rounded to two digits.
                    "precision": 12,
                    "data": lines,
                },
            },
            {
                "name": "warned by the watch",
                "type": "scatter",
                "data": warned,
                "symbolSize": 9,
                "itemStyle": {"color": palette.bad},
            },
        ],
        "legend": legend(palette, data=[every, "best so far", *(["warned by the watch"] if warned else [])]),
    }


def _steps(line: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """The points of a line of steps at which it rises, and its last."""
    rises = [now for before, now in pairwise(line) if now[1] != before[1]]
    return tuple(dict.fromkeys([*line[:1], *rises, *line[-1:]]))


def _across(label: str, value: float, colour: str, kind: str = "dashed") -> dict[str, Any]:
    return {
        "yAxis": value,
        "lineStyle": {"color": colour, "type": kind, "width": 1.5},
        "label": {"formatter": label, "color": colour, "fontSize": 11, "position": "end"},
    }


def u_chart(top: Sequence[BlockWeights], palette: Palette) -> Options:
    """Block weights as a U: the input blocks down, the middle below, the output blocks up.

    top: the best first. A bar spans the middle half of them, a small dot is one, the diamond is the best.
    """
    named = blocks_in_order(top[0] if top else dict.fromkeys(BLOCKS, 0.0))
    blocks = [name for name in named if not is_element(name)]
    parts = {
        "IN": [block for block in blocks if block.startswith("IN")],
        "OUT": [block for block in reversed(blocks) if block.startswith("OUT") and block != "OUT"],
        "M": [block for block in blocks if block == "M00"],
        "rest": [block for block in blocks if block in ("TIME_EMBED", "OUT", "LABEL_EMB")],
    }
    grids: list[Options] = [
        {"left": 48, "width": "38%", "top": 30, "height": "66%"},
        {"right": 56, "width": "38%", "top": 30, "height": "66%"},
        {"left": "31%", "width": "38%", "top": "82%", "height": "6%"},
        {"left": "31%", "width": "38%", "top": "90%", "height": f"{3 * len(parts['rest'])}%"},
    ]
    options: Options = {
        "grid": grids,
        "xAxis": [],
        "yAxis": [],
        "series": [],
        "legend": {"show": False},
        "tooltip": tooltip(palette, trigger="item"),
    }
    for place, (part, names) in enumerate(parts.items()):
        _wing(options, place, part, names, top=top, palette=palette)
    return options


def _wing(
    options: Options,
    place: int,
    part: str,
    names: Sequence[str],
    *,
    top: Sequence[BlockWeights],
    palette: Palette,
) -> None:
    columns = [[weights[name] for weights in top] for name in names]
    low = [float(np.quantile(column, 0.25)) for column in columns if column]
    high = [float(np.quantile(column, 0.75)) for column in columns if column]
    label = {"color": palette.soft, "fontSize": 10, "interval": 0}
    options["xAxis"].append(
        axis(
            palette,
            gridIndex=place,
            min=0,
            max=1,
            interval=0.5,
            position="top",
            axisLabel={
                "show": part in ("IN", "OUT"),
                "color": palette.soft,
                "fontSize": 10,
                ":formatter": "value => value == 0 ? 'A' : value == 1 ? 'B' : ''",
            },
        )
    )
    options["yAxis"].append(
        {
            "type": "category",
            "gridIndex": place,
            "data": list(names),
            "inverse": True,
            "position": "right" if part == "OUT" else "left",
            "axisLabel": label,
            "axisTick": {"show": False},
            "axisLine": {"show": False},
        }
    )
    at = {"xAxisIndex": place, "yAxisIndex": place, "animation": False}
    best = top[0] if top else None
    options["series"] += [
        {
            "type": "bar",
            "stack": f"s{place}",
            "silent": True,
            "data": low,
            "itemStyle": {"color": "transparent"},
            **at,
        },
        {
            "name": f"middle half of the best {len(top)}",
            "type": "bar",
            "stack": f"s{place}",
            "silent": True,
            "data": [b - a for a, b in zip(low, high, strict=True)],
            "barWidth": "55%",
            "itemStyle": {"color": palette.accent, "opacity": 0.28, "borderRadius": 3},
            **at,
        },
        {
            "name": "one of the best",
            "type": "scatter",
            "data": [[weights[name], name] for weights in top[1:] for name in names],
            "symbolSize": 5,
            "itemStyle": {"color": palette.accent, "opacity": 0.45},
            **at,
        },
        {
            "name": "best",
            "type": "scatter",
            "symbol": "diamond",
            "symbolSize": 12,
            "data": [[best[name], name] for name in names] if best else [],
            "itemStyle": {"color": palette.warn, "borderColor": palette.surface, "borderWidth": 1},
            **at,
        },
    ]


def importance_chart(view: NodeView, palette: Palette) -> Options:
    """How much the score changes where one block goes from A to B."""
    found = view.importance
    slopes: Mapping[str, float] = found.slopes if found else {}
    names = [block for block in view.blocks if block in slopes]
    data = [
        {"value": slopes[name], "itemStyle": {"color": palette.b if slopes[name] > 0 else palette.a}}
        for name in names
    ]
    return {
        "legend": {"show": False},
        "grid": {"left": 8, "right": 8, "top": 14, "bottom": 8, "containLabel": True},
        "xAxis": axis(
            palette,
            "category",
            data=names,
            axisLabel={"color": palette.soft, "fontSize": 10, "rotate": 90, "interval": 0},
        ),
        "yAxis": axis(palette),
        "series": [{"type": "bar", "data": data, "barWidth": "65%"}],
    }


def heat_chart(
    columns: Sequence[str],
    rows: Sequence[str],
    cells: Sequence[tuple[int, int, float]],
    palette: Palette,
    *,
    around_zero: bool = False,
) -> Options:
    """Probes down, contenders across. cells: (column, row, score). around_zero: they are differences."""
    values = [value for _, _, value in cells] or [0.0, 1.0]
    low, high = min(values), max(values)
    if around_zero:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    colours = [palette.bad, palette.surface, palette.good] if around_zero else list(palette.scale)
    shown = len(rows) <= 40
    return {
        "legend": {"show": False},
        "grid": {"left": 8, "right": 70, "top": 8, "bottom": 8, "containLabel": True},
        "tooltip": tooltip(palette, trigger="item", position="top"),
        "xAxis": {
            **axis(palette, "category", data=list(columns), position="top"),
            "axisLabel": {
                "color": palette.text,
                "fontSize": 11,
                "interval": 0,
                "rotate": 0 if len(columns) < 7 else 35,
            },
        },
        "yAxis": {
            **axis(palette, "category", data=[shorter(row, 22) for row in rows], inverse=True),
            "axisLabel": {"show": shown, "color": palette.soft, "fontSize": 11, "interval": 0},
        },
        "visualMap": {
            "min": round(low, 4),
            "max": round(high, 4),
            "calculable": False,
            "orient": "vertical",
            "right": 0,
            "top": "middle",
            "itemHeight": 120,
            "itemWidth": 10,
            "precision": 3,
            "text": [number(high), number(low)],
            "textStyle": {"color": palette.soft, "fontSize": 11},
            "inRange": {"color": colours},
        },
        "series": [
            {
                "type": "heatmap",
                "name": "score",
                "data": [[column, row, round(value, 5)] for column, row, value in cells],
                "itemStyle": {"borderColor": palette.surface, "borderWidth": 2, "borderRadius": 4},
                "progressive": 0,
            }
        ],
    }


def timing_chart(view: NodeView, palette: Palette) -> Options:
    """Seconds of every stage of the trials, stacked."""
    trials, _ = thinned([trial for trial in view.searched if trial.timings])
    return {
        "tooltip": tooltip(palette),
        "grid": {"left": 8, "right": 16, "top": 34, "bottom": 26, "containLabel": True},
        "xAxis": axis(palette, "category", name="trial", data=tuple(trial.number for trial in trials)),
        "yAxis": axis(palette, axisLabel={"color": palette.soft, "fontSize": 11, "formatter": "{value} s"}),
        "series": [
            {
                "name": stage,
                "type": "line",
                "stack": "stages",
                "symbol": "none",
                "lineStyle": {"width": 0},
                "areaStyle": {"opacity": 0.75},
                "data": tuple(round((trial.timings or {}).get(stage, 0.0), 4) for trial in trials),
            }
            for stage in STAGES
        ],
    }


def timing_words(view: NodeView) -> str:
    """What a trial takes on average, by stage."""
    trials = [trial.timings for trial in view.searched[-20:] if trial.timings]
    if not trials:
        return ""
    means = {stage: sum(timings.get(stage, 0.0) for timings in trials) / len(trials) for stage in STAGES}
    longest = sorted(means, key=lambda stage: -means[stage])[:3]
    told = ", ".join(
        f"{stage} {duration(means[stage]) if means[stage] >= 1 else f'{1000 * means[stage]:.0f} ms'}"
        for stage in longest
    )
    return f"Mean of the last {len(trials)}: {told}."


def scorer_chart(view: NodeView, scorer: str, palette: Palette) -> Options:
    """The raw number of one scorer over the trials."""
    points = [(t.number, (t.means or {}).get(scorer), bool(t.warnings)) for t in view.done]
    known, _ = thinned([(at, value, warned) for at, value, warned in points if value is not None])
    watches = scorer in view.progress.watched
    return {
        "legend": {"show": False},
        "tooltip": tooltip(palette),
        "grid": {"left": 8, "right": 12, "top": 12, "bottom": 8, "containLabel": True},
        "xAxis": axis(palette, min=0, splitLine={"show": False}),
        "yAxis": axis(palette, scale=True),
        "series": [
            {
                "name": scorer,
                "type": "scatter",
                "symbolSize": 6,
                "data": tuple(
                    {"value": (at, value), "itemStyle": {"color": palette.bad}} if warned else (at, value)
                    for at, value, warned in known
                ),
                "itemStyle": {"color": palette.uniform if watches else palette.accent, "opacity": 0.8},
                "markLine": {
                    "symbol": "none",
                    "silent": True,
                    "data": [
                        {
                            "xAxis": view.best.number,
                            "lineStyle": {"color": palette.warn, "type": "dashed"},
                            "label": {"show": False},
                        }
                    ]
                    if view.best
                    else [],
                },
            }
        ],
    }
