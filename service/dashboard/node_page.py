"""One node: how its search goes, which weights it found, what that looks like."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from nicegui import ui

from optimizer.going_on import FEWEST
from service.dashboard.charts import Chart, Options
from service.dashboard.compare import Compare
from service.dashboard.job_figures import Bar
from service.dashboard.layout import frame, panel, set_state, stat, state_badge
from service.dashboard.live import follow
from service.dashboard.node_charts import (
    TOP,
    importance_chart,
    progress_chart,
    scorer_chart,
    timing_chart,
    timing_words,
    u_chart,
)
from service.dashboard.node_topics import NodeView, node_topic
from service.dashboard.texts import number, signed
from service.dashboard.theme import Palette
from service.dashboard.trial_table import TrialTable
from service.db.records import TrialRecord
from service.db.states import NodeKind
from service.durations import duration
from service.going_on import GoingOn
from service.progress import NodeProgress
from service.results import beside_blocks

KINDS = {
    NodeKind.AVERAGE: "the uniform merge of all leaves, scored: what the tree has to beat",
    NodeKind.SCREEN: "one leaf alone, scored: its place in the ranking",
    NodeKind.REFERENCE: "one leaf alone, scored first: what several scorers are measured by",
    NodeKind.COMPOSE: "a leaf, put together from components of several models; nothing is rendered for it",
}


@ui.page("/jobs/{job_id}/nodes/{name}")
def node_page(job_id: str, name: str) -> None:
    with frame(name, active="Jobs", trail=(("Jobs", "/"), ("Job", f"/jobs/{job_id}"))):
        panels = NodePanels()
        follow(node_topic(job_id, name), panels.show)


class NodePanels:
    """All parts of the page, changed in place."""

    def __init__(self) -> None:
        self._parts: list[Callable[[NodeView], None]] = []
        self._built = False

    def show(self, view: NodeView) -> None:
        if not self._built:
            self._build(view)
            self._built = True
        for part in self._parts:
            part(view)

    def _build(self, view: NodeView) -> None:
        merge = view.progress.kind is NodeKind.MERGE
        self._head(view)
        if view.progress.kind is NodeKind.COMPOSE:
            return
        if merge:
            with panel("Score", note="Every trial, and the best so far, against what has to be beaten."):
                self._progress()
            with ui.element("div").classes("grid"):
                with panel("Block weights"):
                    self._weights()
                with panel("Block importance"):
                    self._importance()
        with panel("Compare", note="The same probe and seed by several trials."):
            self._parts.append((compare := Compare()).update)
        with panel(
            "Scorers and watch",
            note="The raw number of each over the trials; the dashed line is the best trial.",
        ):
            self._scorers()
        with panel("Trials", note="Click one to see it under Compare."):
            self._parts.append(TrialTable(compare.look_at).update)
        with panel("Time per stage"):
            self._timings()

    def _head(self, view: NodeView) -> None:
        with ui.element("div").classes("head"):
            with ui.element("h1").classes("grow wrap"):
                ui.label(f"{view.job.name} · {view.progress.name}")
            badge = state_badge(view.progress.state)
        words = ui.label().classes("soft wrap lead")
        banners = ui.element("div")
        with panel():
            bar = Bar()
            with ui.element("div").classes("stats"):
                trials = stat("Trials")
                best = stat("Best score")
                gain = stat(
                    "Gain (search)", hint="Best above A, B and their uniform merge, on search probes."
                )
                heldout = stat("Gain (held-out)", hint="The same on probes that the search never saw.")
                eta = stat("Time left", hint="At the pace so far.")
                sure = stat(
                    "Beats its rivals",
                    hint="How sure it is that the winner does, by a bootstrap over probes.",
                )
                worth = stat(
                    "Going on",
                    hint="What the next trials are expected to gain, and how long they take the device.",
                )
                pace = stat("Images per second")
            more = ui.label().classes("soft small wrap")
        seen: list[object] = []

        def show(now: NodeView) -> None:
            node = now.progress
            set_state(badge, node.state)
            words.set_text(f"{node.a} + {node.b} → {node.output}" if node.b else KINDS.get(node.kind, ""))
            ended = node.trials_done + node.trials_stopped + node.trials_failed
            bar.show(ended, node.trials_planned, node.state)
            stopped = f", {node.trials_stopped} stopped early" if node.trials_stopped else ""
            failed = f", {node.trials_failed} failed" if node.trials_failed else ""
            trials.set_text(f"{ended} / {node.trials_planned}{stopped}{failed}")
            best.set_text(number(node.best.score) if node.best else "–")
            for label, value in ((gain, node.gain), (heldout, node.heldout_gain)):
                label.set_text(signed(value))
                label.classes(replace=f"stat-value {'good' if (value or 0) > 0 else ''}")
            eta.set_text(duration(node.eta_seconds))
            sure.set_text("–" if node.confidence is None else f"{node.confidence.probability:.0%}")
            worth.set_text(_worth(node.going_on))
            more.set_text(_more(node))
            pace.set_text("–" if node.renders_per_second is None else f"{node.renders_per_second:.2f}")
            told = [node.reason, node.stop_reason, node.warnings, node.notes]
            if told != seen:
                seen[:] = told
                banners.clear()
                with banners:
                    _banners(now)

        self._parts.append(show)

    def _progress(self) -> None:
        by = ui.toggle({"trials": "by trial", "renders": "by images"}, value="trials")
        by.props("dense no-caps unelevated").classes("over-chart")
        chart = Chart("Score of every trial and the best so far", height="21rem")
        latest: list[NodeView] = []

        def show(now: NodeView) -> None:
            latest[:] = [now]
            by_renders = by.value == "renders"
            chart.show(partial(_drawn, now, "progress", progress_chart, by_renders=by_renders))

        by.on_value_change(lambda _: show(latest[0]) if latest else None)
        self._parts.append(show)
        box = ui.element("div").classes("table-scroll")
        seen: list[object] = []

        def show_scores(now: NodeView) -> None:
            if [now.progress.scores] != seen:
                seen[:] = [now.progress.scores]
                box.clear()
                with box:
                    _scores(now.progress)

        self._parts.append(show_scores)

    def _weights(self) -> None:
        def beside(best: TrialRecord) -> str:
            said = beside_blocks(best.weights, best.choices)
            return f" Beside blocks trial {best.number} has {said}." if said else ""

        note = ui.label().classes("soft small")
        chart = Chart("Block weights of the best trials as a U", height="27rem")

        def show(now: NodeView) -> None:
            top = now.ranked[:TOP]
            note.set_text(
                f"Diamond: trial {top[0].number}, the best. Dots: the next {len(top) - 1}; bars: the middle "
                f"half of all {len(top)}. IN goes down, M is the bottom, OUT goes up; A is 0, B is 1."
                f"{beside(top[0])}"
                if top
                else "The first weights come with the first trial."
            )
            chart.show(partial(_drawn, now, "u", _best_as_u))

        self._parts.append(show)

    def _importance(self) -> None:
        note = ui.label().classes("soft small")
        chart = Chart("How much the score depends on each block", height="22rem")

        def show(now: NodeView) -> None:
            found = now.importance
            chart.element.set_visibility(found is not None)
            if found is None:
                note.set_text("It takes eight scored trials to say something of blocks.")
                return
            trust = (
                f"it explains {100 * found.explained:.0f} % of the spread of trials left out of the fit"
                if found.explained > 0
                else "it explains nothing of trials left out of the fit: do not trust it yet"
            )
            note.set_text(
                "Score change where one block alone goes from A to B: above 0 B is better. Ridge regression "
                f"of the score on the block weights, {found.trials} trials; {trust}."
            )
            chart.show(partial(_drawn, now, "importance", importance_chart))

        self._parts.append(show)

    def _scorers(self) -> None:
        box = ui.element("div").classes("grid small-charts")
        charts: dict[str, Chart] = {}

        def show(now: NodeView) -> None:
            means = next((trial.means for trial in reversed(now.done) if trial.means), None) or {}
            for name in means:
                if name not in charts:
                    watches = name in now.progress.watched
                    with box, ui.element("div"):
                        ui.label(f"{name} ({'watches, never counts' if watches else 'counts'})").classes(
                            "small strong"
                        )
                        charts[name] = Chart(f"{name} over the trials", height="10rem")
                charts[name].show(partial(_drawn, now, "scorer", scorer_chart, scorer=name))

        self._parts.append(show)

    def _timings(self) -> None:
        note = ui.label().classes("soft small")
        chart = Chart("Seconds per stage of every trial", height="14rem")

        def show(now: NodeView) -> None:
            note.set_text(timing_words(now))
            chart.show(partial(_drawn, now, "timing", timing_chart))

        self._parts.append(show)


def _worth(found: GoingOn | None) -> str:
    if found is None:
        return "–"
    return signed(found.gain) + ("" if found.seconds is None else f" in {duration(found.seconds)}")


def _more(node: NodeProgress) -> str:
    """How sure the winner is, and what going on is worth, as sentences."""
    if node.kind is not NodeKind.MERGE:
        return ""
    sure = "" if node.confidence is None else f"Winner: {node.confidence.text}. "
    worth = f"not known before {FEWEST} scored proposals" if node.going_on is None else node.going_on.text
    return f"{sure}Going on: {worth}."


def _best_as_u(view: NodeView, palette: Palette) -> Options:
    return u_chart([trial.weights for trial in view.ranked[:TOP]], palette)


def _drawn(view: NodeView, name: str, draw: Callable[..., Options], palette: Palette, **how: Any) -> Options:
    """A chart of a view, drawn once for all browsers of one palette."""
    key = (name, palette, *how.values())
    return view.once(key, lambda: draw(view, palette=palette, **how))


def _scores(node: NodeProgress) -> None:
    """What the best and what it has to beat scored, on search probes and on held-out ones."""
    names = {"a": f"A: {node.a}", "b": f"B: {node.b}", "uniform": "uniform", "winner": "best"}
    with ui.element("table").classes("plain scores"):
        with ui.element("thead"), ui.element("tr"):
            for text in ("", *names.values(), "gain"):
                with ui.element("th").classes("right"):
                    ui.label(text)
        with ui.element("tbody"):
            for phase, title, gain in (
                ("search", "search", node.gain),
                ("heldout", "held-out", node.heldout_gain),
            ):
                values = [node.scores.get(f"{phase}/{name}") for name in names]
                if any(value is not None for value in values):
                    with ui.element("tr"):
                        for text in (title, *map(number, values), signed(gain)):
                            with ui.element("td").classes("right"):
                                ui.label(text)


def _banners(view: NodeView) -> None:
    node = view.progress
    if node.reason and node.state != "done":
        ui.label(node.reason).classes(f"banner {'warn' if node.state == 'paused' else 'bad'}")
    for warning in node.warnings:
        ui.label(warning).classes("banner warn")
    if node.stop_reason:
        ui.label(f"The search ended: {node.stop_reason}.").classes("soft small")
    other = [note for note in node.notes if note not in node.warnings]
    if other:
        with ui.expansion(f"{len(other)} notes", icon="notes").classes("notes"):
            for note in other:
                ui.label(note).classes("soft small wrap")
