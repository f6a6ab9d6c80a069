"""How figures and times are written on the page."""

from __future__ import annotations

from datetime import UTC, datetime

NOTHING = "–"


def number(value: float | None) -> str:
    """Four digits behind the point, or as many as tell large numbers apart."""
    if value is None:
        return NOTHING
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.6g}"


def signed(value: float | None) -> str:
    """The same with its sign, a true minus."""
    return NOTHING if value is None else f"{'+' if value >= 0 else '−'}{number(abs(value))}"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: `42 s`, `7 min`, `3 h 05 min`, `2 d 4 h`."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 1 or seconds == 0 else "< 1 s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def size(count: int | None) -> str:
    """Bytes as a person says them."""
    if count is None:
        return NOTHING
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def clock(moment: datetime) -> str:
    """A moment to the second, in UTC as all the service's times are."""
    return moment.astimezone(UTC).strftime("%d %b %H:%M:%S")


def shorter(text: str, length: int = 60) -> str:
    """A text that fits: its beginning, with an ellipsis where it is cut."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
