"""Charts: Apache ECharts, drawn from the page's palette and anew when it changes between dark and light.

Nothing a person typed may become a key of the options: NiceGUI runs what stands behind a key that begins with
a colon. As a value it is text; ECharts escapes it in its tooltips.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui import ui

from service.dashboard.theme import Palette, look

Options = dict[str, Any]
Draw = Callable[[Palette], Options]
FONT = "system-ui, -apple-system, Segoe UI, Roboto, sans-serif"


class Chart:
    """A chart in this place of the page. words: what it shows, for who cannot see it."""

    def __init__(
        self, words: str, *, height: str = "17rem", on_click: Callable[[Any], None] | None = None
    ) -> None:
        self._look = look()
        self._draw: Draw | None = None
        self.element = ui.echart({}, on_point_click=on_click).classes("chart").style(f"height: {height}")
        self.element.props["role"] = "img"
        self.element.props["aria-label"] = words
        self._look.redraw.append(self._redraw)

    def show(self, draw: Draw) -> None:
        """Show these options, now and whenever the palette changes."""
        self._draw = draw
        self._redraw()

    def _redraw(self) -> None:
        if self._draw is None or self.element.is_deleted:
            return
        options = {**base(self._look.palette), **self._draw(self._look.palette)}
        if options != self.element.options:
            self.element.options.clear()
            self.element.options.update(options)
            self.element.update()


def base(palette: Palette) -> Options:
    """What all charts share."""
    return {
        "backgroundColor": "transparent",
        "animation": False,
        "color": list(palette.series),
        "textStyle": {"fontFamily": FONT, "color": palette.text},
        "grid": {"left": 8, "right": 16, "top": 34, "bottom": 8, "containLabel": True},
        "tooltip": tooltip(palette),
        "legend": legend(palette),
    }


def tooltip(palette: Palette, **changes: Any) -> Options:
    """The box that tells what is under the pointer."""
    return {
        "trigger": "axis",
        "confine": True,
        "backgroundColor": palette.surface,
        "borderColor": palette.line,
        "textStyle": {"color": palette.text, "fontSize": 12},
        "axisPointer": {"lineStyle": {"color": palette.soft}, "crossStyle": {"color": palette.soft}},
        **changes,
    }


def legend(palette: Palette, **changes: Any) -> Options:
    """The names of the series, on one line that scrolls where they are many."""
    return {
        "type": "scroll",
        "top": 0,
        "left": 0,
        "itemWidth": 14,
        "itemHeight": 8,
        "textStyle": {"color": palette.soft, "fontSize": 12},
        "pageTextStyle": {"color": palette.soft},
        "pageIconColor": palette.text,
        "pageIconInactiveColor": palette.line,
        **changes,
    }


def axis(palette: Palette, kind: str = "value", name: str = "", **changes: Any) -> Options:
    """One axis, its labels in the page's colours (ECharts' own are near invisible in the dark)."""
    return {
        "type": kind,
        "name": name,
        "nameLocation": "middle",
        "nameGap": 26,
        "nameTextStyle": {"color": palette.soft, "fontSize": 12},
        "axisLabel": {"color": palette.soft, "fontSize": 11, "hideOverlap": True},
        "axisLine": {"show": kind != "value", "lineStyle": {"color": palette.line}},
        "axisTick": {"show": False},
        "splitLine": {"show": kind == "value", "lineStyle": {"color": palette.line}},
        **changes,
    }
