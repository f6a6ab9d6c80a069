"""Lengths of time, as a person says them."""

from __future__ import annotations


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: `42 s`, `7 min`, `3 h 05 min`, `2 d 4 h`."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 1 or seconds == 0 else "< 1 s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
