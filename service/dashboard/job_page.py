"""One job: its tree, its result, the checkpoints it made, what happened."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from nicegui import ui

from service.dashboard.actions import ActionButtons
from service.dashboard.event_log import EventLog, events_topic
from service.dashboard.job_figures import JobFigures
from service.dashboard.job_topics import JobView, job_topic
from service.dashboard.layout import frame, panel, set_state, state_badge
from service.dashboard.live import follow
from service.dashboard.texts import number, signed, size
from service.dashboard.tree_view import TreeView
from service.db.states import JobState, NodeKind
from service.progress import NodeProgress


@ui.page("/jobs/{job_id}")
def job_page(job_id: str) -> None:
    with frame("Job", active="Jobs", trail=(("Jobs", "/"),)):
        view = JobPanels(job_id)
        follow(job_topic(job_id), view.show)
        log = EventLog(job_id)
        follow(events_topic(job_id), log.show)


def node_path(job_id: str, node: str) -> str:
    """Where the page of a node is."""
    return f"/jobs/{job_id}/nodes/{quote(node, safe='')}"


def download(text: str, path: str, icon: str) -> None:
    """A link that saves a file."""
    with ui.link(target=path).classes("file") as link:
        ui.icon(icon).props('aria-hidden="true"')
        ui.label(text)
    link.props["download"] = True


class JobPanels:
    """Everything of a job but its log, changed in place."""

    def __init__(self, job_id: str) -> None:
        self._id = job_id
        self._built = False
        self._seen: dict[str, object] = {}

    def show(self, view: JobView) -> None:
        if not self._built:
            self._build()
            self._built = True
        progress = view.line.progress
        ui.page_title(f"{progress.name} · autombw")
        self._name.set_text(progress.name)
        set_state(self._state, progress.state)
        self._actions.show(progress)
        self._figures.show(view.line)
        self._tree.show(view)
        self._redraw("trouble", [(n.name, n.reason, n.warnings) for n in progress.nodes], self._trouble, view)
        self._redraw("result", progress.result, self._result, view)
        made = [(n.name, n.checkpoint) for n in progress.nodes]
        self._redraw("files", (progress.state, made), self._files, view)

    def _build(self) -> None:
        with ui.element("div").classes("head"):
            with ui.element("h1").classes("grow wrap"):
                self._name = ui.label()
            self._state = state_badge("queued")
            self._actions = ActionButtons(self._id)
        self._boxes = {"trouble": ui.element("div")}
        with panel():
            self._figures = JobFigures("Total gain")
        with panel(
            "Tree", note="Leaves to the left, the result to the right. Open a merge to see its search."
        ):
            self._tree = TreeView(self._id)
        with ui.element("div").classes("grid"):
            with panel("From leaf to root", note="Every leaf alone, their uniform merge, and the result."):
                self._boxes["result"] = ui.element("div")
            with panel("Checkpoints", note="What each merge made, and of what."):
                self._boxes["files"] = ui.element("div")

    def _redraw(self, name: str, seen: object, draw: Callable[[JobView], None], view: JobView) -> None:
        """Draw a part anew, where what it shows has changed."""
        if self._seen.get(name, self) != seen:
            self._seen[name] = seen
            self._boxes[name].clear()
            with self._boxes[name]:
                draw(view)

    def _trouble(self, view: JobView) -> None:
        for node in view.line.progress.nodes:
            if node.reason and node.state != "done":
                tone = "warn" if node.state == "paused" else "bad"
                ui.label(f"{node.name}: {node.reason}").classes(f"banner {tone}")
            for warning in node.warnings:
                ui.label(f"{node.name}: {warning}").classes("banner warn")

    def _result(self, view: JobView) -> None:
        result = view.line.progress.result
        rows = [(name, scores, "") for name, scores in result.leaves.items()]
        rows += [("uniform merge of all", result.average, "soft"), ("result", result.winner, "strong")]
        known = [row for row in rows if row[1].search is not None]
        if not known:
            ui.label("The leaves are scored first; figures come with the first trials.").classes("soft")
            return
        # Numbers of different probes are no lengths to compare.
        heldout = all(scores.heldout is not None for _, scores, _ in known)
        values = [(scores.heldout if heldout else scores.search) or 0.0 for _, scores, _ in known]
        low, best = min(values), max(values)
        with ui.element("div").classes("table-scroll"), ui.element("table").classes("plain"):
            with ui.element("thead"), ui.element("tr"):
                for text, classes in (("", ""), ("search", "right"), ("held-out", "right"), ("", "")):
                    with ui.element("th").classes(classes):
                        ui.label(text)
            with ui.element("tbody"):
                for (name, scores, classes), value in zip(known, values, strict=True):
                    with ui.element("tr").classes(classes):
                        _cell(name, "wrap first-cell")
                        _cell(number(scores.search), "right")
                        _cell(number(scores.heldout), "right")
                        with ui.element("td").classes("meter-cell"), ui.element("div").classes("meter"):
                            share = (value - low) / (best - low) if best > low else 1
                            ui.element("div").style(f"width: {8 + 92 * share:.0f}%")
                _gains("gain over the best of these", result.gain, result.heldout_gain)

    def _files(self, view: JobView) -> None:
        progress = view.line.progress
        made = [node for node in progress.nodes if node.checkpoint is not None]
        if not made:
            ui.label("The first checkpoint is written when the first merge is done.").classes("soft")
        for node in made:
            self._file(node)
        if progress.state in (JobState.DONE, JobState.CANCELLED, JobState.FAILED, JobState.PAUSED) or made:
            download("Report (one HTML page)", f"/api/v1/jobs/{self._id}/report", "description")

    def _file(self, node: NodeProgress) -> None:
        made = node.checkpoint
        assert made is not None, "only nodes with a checkpoint are listed"
        at = f"/api/v1/jobs/{self._id}"
        query = f"?node={quote(node.name, safe='')}"
        with ui.element("div").classes("made"):
            with ui.element("div").classes("made-name"):
                ui.label(made.name).classes("wrap strong")
                if node.final:
                    ui.label("result").classes("tag")
            ui.label(f"{node.name} = {_made_of(node)}").classes("soft small wrap")
            ui.label(f"{size(made.size)} · sha256 {made.sha256[:12]}").classes("mono soft")
            with ui.element("div").classes("actions"):
                if made.collected_at is None:
                    download("Checkpoint", f"{at}/artefact{query}", "download")
                else:
                    ui.label("file collected; export makes the same again").classes("soft small")
                download("Recipe", f"{at}/recipe{query}", "receipt_long")


def _made_of(node: NodeProgress) -> str:
    """What a node's file was made of, in words."""
    if node.kind is NodeKind.AVERAGE:
        return "the uniform merge of all leaves"
    if node.kind is NodeKind.COMPOSE:
        return "put together from components"
    return f"{node.a} + {node.b}"


def _cell(text: str, classes: str = "") -> None:
    with ui.element("td").classes(classes):
        ui.label(text)


def _gains(name: str, search: float | None, heldout: float | None) -> None:
    if search is None and heldout is None:
        return
    with ui.element("tr").classes("sum"):
        _cell(name)
        for value in (search, heldout):
            _cell(signed(value), f"right {'good' if (value or 0) > 0 else 'soft'}")
        _cell("")
