"""The table of a node's trials: sorted, filtered and cut into pages here, so that a browser gets one page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments

from service.dashboard.node_topics import NodeView
from service.db.records import TrialRecord
from service.db.states import TrialState

ROWS = 15
SHOWN = {"all": "all", "done": "done", "failed": "failed", "warned": "warned"}


class TrialTable:
    """Trials with score, state, time, and why they failed or were warned of."""

    def __init__(self, look_at: Callable[[str], None]) -> None:
        self._view: NodeView | None = None
        self._look_at = look_at
        with ui.element("div").classes("toolbar"):
            self._which = ui.toggle(SHOWN, value="all").props("dense no-caps unelevated")
            self._which.on_value_change(lambda _: self._show())
            self._search = ui.input(placeholder="number or reason").props(
                "dense outlined clearable debounce=250"
            )
            self._search.props["aria-label"] = "Filter trials"
            self._search.on_value_change(lambda _: self._show())
        self._table = ui.table(
            columns=_columns([], []),
            rows=[],
            row_key="id",
            pagination={"rowsPerPage": ROWS, "sortBy": "number", "descending": True},
        )
        self._table.props("flat dense wrap-cells binary-state-sort").classes("trials")
        self._table.on("request", self._request)
        self._table.on("rowClick", self._row, [[], ["id", "state"], None])
        self._table.props["no-data-label"] = "No such trial."

    def update(self, view: NodeView) -> None:
        """Take what is known by now."""
        if self._view is None:
            self._table.columns = _columns(_scorers(view), list(view.plan.search.choices.options))
        self._view = view
        self._show()

    def _request(self, event: GenericEventArguments) -> None:
        asked: dict[str, Any] = event.args["pagination"]
        self._table.pagination = {**self._table.pagination, **asked}
        self._show()

    def _row(self, event: GenericEventArguments) -> None:
        row = event.args[1]
        if row["state"] == TrialState.DONE:
            self._look_at(str(row["id"]))

    def _show(self) -> None:
        if self._view is None:
            return
        view, pages = self._view, self._table.pagination
        key, down = pages.get("sortBy") or "number", bool(pages.get("descending"))
        rows = view.once(f"rows by {key}, {down}", lambda: _sorted(view, key, down=down))
        if self._which.value != "all" or self._search.value:
            wanted = {trial.number for trial in view.searched if self._matches(trial)}
            rows = [row for row in rows if row["id"] in wanted]
        size = int(pages.get("rowsPerPage") or len(rows) or 1)
        page = min(int(pages.get("page") or 1), max(1, -(-len(rows) // size)))
        cut = rows[(page - 1) * size : page * size]
        if cut != self._table.rows or pages.get("rowsNumber") != len(rows) or pages.get("page") != page:
            self._table.pagination = {**pages, "page": page, "rowsNumber": len(rows)}
            self._table.rows = cut

    def _matches(self, trial: TrialRecord) -> bool:
        which, wanted = self._which.value, str(self._search.value or "").strip().lower()
        if which == "warned" and not trial.warnings:
            return False
        if which in ("done", "failed") and trial.state != which:
            return False
        return not wanted or wanted == str(trial.number) or wanted in _why(trial).lower()


def _sorted(view: NodeView, key: str, *, down: bool) -> list[dict[str, Any]]:
    """The rows of all trials; those that lack what they are sorted by come last."""
    rows = view.once("rows", lambda: [_row(trial) for trial in view.searched])
    there = [row for row in rows if row.get(key) is not None]
    there.sort(key=lambda row: row[key], reverse=down)
    return there + [row for row in rows if row.get(key) is None]


def _row(trial: TrialRecord) -> dict[str, Any]:
    return {
        "id": trial.number,
        "number": trial.number,
        "state": str(trial.state),
        "score": trial.score,
        "seconds": trial.seconds,
        "why": _why(trial),
        **(trial.choices or {}),
        **{f"mean {name}": value for name, value in (trial.means or {}).items()},
    }


def _why(trial: TrialRecord) -> str:
    names = {0: "A alone", 1: "B alone", 2: "uniform merge"}
    said = [trial.reason] if trial.reason else list(trial.warnings or [])
    return "; ".join([*([names[trial.number]] if trial.number in names else []), *said])


def _scorers(view: NodeView) -> list[str]:
    means = next((trial.means for trial in reversed(view.done) if trial.means), None) or {}
    return list(means) if len(means) > 1 else []


def _columns(scorers: list[str], choices: list[str]) -> list[dict[str, Any]]:
    shown = ":format"
    four = "value => value == null ? '–' : Math.abs(value) < 100 ? value.toFixed(4) : value.toPrecision(5)"
    one = "value => value == null ? '–' : value.toFixed(1) + ' s'"
    return [
        {"name": "number", "label": "trial", "field": "number", "sortable": True, "align": "right"},
        {
            "name": "score",
            "label": "score",
            "field": "score",
            "sortable": True,
            "align": "right",
            shown: four,
        },
        {"name": "state", "label": "state", "field": "state", "sortable": True, "align": "left"},
        {
            "name": "seconds",
            "label": "took",
            "field": "seconds",
            "sortable": True,
            "align": "right",
            shown: one,
        },
        *(
            {
                "name": f"mean {name}",
                "label": name,
                "field": f"mean {name}",
                "sortable": True,
                "align": "right",
                shown: four,
            }
            for name in scorers
        ),
        *(
            {
                "name": name,
                "label": name.replace("_", " "),
                "field": name,
                "sortable": True,
                "align": "left",
            }
            for name in choices
        ),
        {
            "name": "why",
            "label": "what it is, why it failed, what the watch says",
            "field": "why",
            "align": "left",
        },
    ]
