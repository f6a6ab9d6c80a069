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
