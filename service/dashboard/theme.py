"""Light and dark: which one a browser wants, and the colours that charts are drawn in.

ECharts does not follow the page's stylesheet, so every chart is drawn from a Palette.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from nicegui import Client, ui

COOKIE = "autombw_theme"
YEAR_SECONDS = 365 * 24 * 3600


@dataclass(frozen=True)
class Palette:
    """Colours of one theme, the same as in page.css."""

    text: str
    soft: str
    line: str
    surface: str
    accent: str
    good: str
    bad: str
    warn: str
    a: str
    b: str
    uniform: str
    series: tuple[str, ...]
    scale: tuple[str, ...]
    """From low to high, for heat maps."""


LIGHT = Palette(
    text="#1c2330",
    soft="#677084",
    line="#e3e6ee",
    surface="#ffffff",
    accent="#5b4ee6",
    good="#12805c",
    bad="#c73838",
    warn="#b06a00",
    a="#d9642c",
    b="#1f7fc4",
    uniform="#8a8f9c",
    series=("#5b4ee6", "#d9642c", "#12805c", "#1f7fc4", "#b0378f", "#8a6d00", "#4c5a73"),
    scale=("#f4f2fd", "#c3bbf5", "#8f83ee", "#5b4ee6", "#2d2393"),
)
DARK = Palette(
    text="#e6e9f2",
    soft="#98a1b5",
    line="#2b3242",
    surface="#171b25",
    accent="#9b91ff",
    good="#4cc79a",
    bad="#ff7b7b",
    warn="#f0b455",
    a="#ff9a66",
    b="#63b5f2",
    uniform="#a3a9b8",
    series=("#9b91ff", "#ff9a66", "#4cc79a", "#63b5f2", "#e68ad0", "#d8bf5a", "#a3b1cc"),
    scale=("#1d2030", "#352f6b", "#5a4fc0", "#8f84ff", "#d3ceff"),
)


@dataclass
class Look:
    """What one browser's page looks like by now, and what is drawn anew when that changes."""

    dark: bool
    chosen: bool
    """Whether a person chose it; otherwise it follows the browser."""
    redraw: list[Callable[[], None]] = field(default_factory=list)

    @property
    def palette(self) -> Palette:
        return DARK if self.dark else LIGHT

    def set_dark(self, dark: bool) -> None:
        """Change it, and draw the charts anew."""
        if dark != self.dark:
            self.dark = dark
            for draw in list(self.redraw):
                draw()


_looks: WeakKeyDictionary[Client, Look] = WeakKeyDictionary()


def look() -> Look:
    """The look of the page that is being built or changed."""
    client = ui.context.client
    found = _looks.get(client)
    if found is None:
        request = client.request
        chosen = request.cookies.get(COOKIE) if request is not None else None
        found = _looks[client] = Look(dark=chosen == "dark", chosen=chosen in ("dark", "light"))
    return found


def add_toggle() -> None:
    """The button for dark and light; until a person presses it the browser's own preference holds."""
    now = look()
    mode = ui.dark_mode(now.dark)
    button = (
        ui.button(icon="dark_mode").props('flat round dense aria-label="Dark or light"').classes("toggle")
    )
    button.tooltip("Dark or light")

    def apply(dark: bool) -> None:
        mode.set_value(dark)
        button.props(f"icon={'light_mode' if dark else 'dark_mode'}")
        now.set_dark(dark)

    def press() -> None:
        apply(not now.dark)
        name = "dark" if now.dark else "light"
        ui.run_javascript(
            f"document.cookie = '{COOKIE}={name}; path=' + (window.path_prefix || '/') + "
            f"'; max-age={YEAR_SECONDS}; samesite=lax'"
        )

    async def follow_browser() -> None:
        if not now.chosen:
            try:
                apply(
                    await ui.run_javascript("matchMedia('(prefers-color-scheme: dark)').matches", timeout=5)
                )
            except TimeoutError:
                return

    button.on_click(press)
    apply(now.dark)
    ui.context.client.on_connect(follow_browser)
