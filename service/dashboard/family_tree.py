"""A family of models, drawn: who came from whom, the oldest to the left, lines from parents to children."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nicegui import ui

from service.report.tree import COLUMN, HEIGHT, MARGIN, ROW, WIDTH, line_between


@dataclass(frozen=True)
class Member:
    """A box of the drawing. line: below its title. parents: keys of others. hint: under the pointer."""

    key: str
    title: str
    line: str = ""
    parents: tuple[str, ...] = ()
    hint: str = ""


def places(members: Sequence[Member]) -> dict[str, tuple[float, float]]:
    """Key -> (column, row) of every member: a child stands a column behind its last parent, between them.

    A parent that is no member is left out. No member may be its own ancestor.
    """
    by_key = {member.key: member for member in members}
    children = {parent for member in members for parent in member.parents}
    columns: dict[str, int] = {}
    rows: dict[str, float] = {}
    free = 0

    def place(key: str) -> None:
        nonlocal free
        known = [parent for parent in by_key[key].parents if parent in by_key]
        fresh = [parent for parent in dict.fromkeys(known) if parent not in rows]
        for parent in fresh:
            place(parent)
        columns[key] = 1 + max((columns[parent] for parent in known), default=-1)
        if fresh:
            rows[key] = sum(rows[parent] for parent in fresh) / len(fresh)
        else:
            rows[key], free = float(free), free + 1

    for member in [*(m for m in members if m.key not in children), *members]:
        if member.key not in rows:
            place(member.key)
    return {key: (columns[key], row) for key, row in rows.items()}


def draw_family(members: Sequence[Member], on_click: Callable[[str], None] | None = None) -> None:
    """Draw it in this place of the page. on_click: told the key of a member with parents that is clicked."""
    at = {
        key: (column * COLUMN + MARGIN, row * ROW + MARGIN) for key, (column, row) in places(members).items()
    }
    if not at:
        return
    width = max(x for x, _ in at.values()) + WIDTH + MARGIN
    height = max(y for _, y in at.values()) + HEIGHT + MARGIN
    lines = "".join(
        f'<path class="plain" d="{line_between(at[parent], at[member.key])}"/>'
        for member in members
        for parent in member.parents
        if parent in at
    )
    with (
        ui.element("div").classes("table-scroll"),
        ui.element("div").classes("tree").style(f"width: {width}px; height: {height}px"),
    ):
        # Nothing a person typed is in it: paths are of numbers alone.
        ui.html(f'<svg width="{width}" height="{height}" aria-hidden="true">{lines}</svg>', sanitize=False)
        for member in members:
            x, y = at[member.key]
            _box(member, f"left: {x}px; top: {y}px; width: {WIDTH}px; height: {HEIGHT}px", on_click)


def _box(member: Member, place: str, on_click: Callable[[str], None] | None) -> None:
    clicked = on_click if member.parents else None
    kind = "merge" if member.parents else "leaf"
    with ui.element("button" if clicked else "div").classes(f"box {kind}").style(place) as box:
        ui.label(member.title).classes("box-name")
        ui.label(member.line).classes("box-line")
        box.tooltip(member.hint or member.title)
    if clicked is not None:
        box.props["type"] = "button"
        box.props["aria-label"] = f"{member.title}, {member.line}"
        box.on("click", lambda _, key=member.key: clicked(key))
