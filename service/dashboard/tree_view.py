"""The tree of a job, drawn: states and scores on its nodes, every merge a link to its page."""

from __future__ import annotations

from urllib.parse import quote

from nicegui import ui

from service.dashboard.job_topics import JobView
from service.dashboard.texts import number, signed
from service.db.states import NodeKind
from service.progress import NodeProgress
from service.report.tree import HEIGHT, WIDTH, draw


class TreeView:
    """The drawing. It is made anew when its boxes are others, and else changed in place."""

    def __init__(self, job_id: str) -> None:
        self._id = job_id
        with ui.element("div").classes("table-scroll"):
            self._box = ui.element("div").classes("tree")
        self._aside = ui.element("div").classes("actions")
        self._drawn: object = None
        self._beside: object = None
        self._merges: dict[str, _Merge] = {}
        self._leaves: dict[str, ui.label] = {}

    def show(self, view: JobView) -> None:
        nodes = view.line.progress.nodes
        drawn = [(node.name, node.kind, node.a, node.b) for node in nodes]
        if drawn != self._drawn:
            self._drawn = drawn
            self._box.clear()
            with self._box:
                self._draw(view)
        for node in nodes:
            if node.name in self._merges:
                self._merges[node.name].show(node)
        for name, line in self._leaves.items():
            scores = view.line.progress.result.leaves.get(name)
            line.set_text(number(scores.search) if scores and scores.search else "leaf")
        beside = [(n.name, n.state, n.best and n.best.score) for n in nodes if n.kind is not NodeKind.MERGE]
        if beside != self._beside:
            self._beside = beside
            self._aside.clear()
            with self._aside:
                self._others(nodes)

    def _draw(self, view: JobView) -> None:
        drawing = draw(view.nodes)
        progress = {node.name: node for node in view.line.progress.nodes}
        self._merges, self._leaves = {}, {}
        self._box.style(f"width: {drawing.width}px; height: {drawing.height}px")
        lines = "".join(f'<path class="{edge.line}" d="{edge.path}"/>' for edge in drawing.edges)
        # Nothing a person typed is in it: paths are of numbers alone.
        ui.html(
            f'<svg width="{drawing.width}" height="{drawing.height}" aria-hidden="true">{lines}</svg>',
            sanitize=False,
        ).classes("edges")
        for box in drawing.boxes:
            place = f"left: {box.x}px; top: {box.y}px; width: {WIDTH}px; height: {HEIGHT}px"
            if box.node is None:
                with ui.element("div").classes("box leaf").style(place) as leaf:
                    ui.label(box.name).classes("box-name")
                    self._leaves[box.name] = ui.label().classes("box-line")
                    leaf.tooltip(box.name)
            else:
                self._merges[box.name] = _Merge(self._id, progress[box.name], place)

    def _others(self, nodes: list[NodeProgress]) -> None:
        for node in nodes:
            if node.kind is not NodeKind.MERGE:
                score = f" {number(node.best.score)}" if node.best else ""
                with ui.link(target=_path(self._id, node)).classes(f"chip state-{node.state}"):
                    ui.label(f"{_what(node)}: {node.state}{score}")


class _Merge:
    """The box of a merge, a link to its page."""

    def __init__(self, job_id: str, node: NodeProgress, place: str) -> None:
        self._state = ""
        with ui.link(target=_path(job_id, node)).classes("box merge").style(place) as self._link:
            ui.label(node.name + (" ★" if node.final else "")).classes("box-name")
            self._line = ui.label().classes("box-line")
            self._tip = ui.tooltip("")

    def show(self, node: NodeProgress) -> None:
        self._line.set_text(_line(node))
        words = f"{node.name}, {node.state}, {node.trials_done} of {node.trials_planned} trials"
        if self._link.props.get("aria-label") != words:
            self._link.props["aria-label"] = words
            self._link.classes(remove=self._state, add=f"state-{node.state}")
            self._state = f"state-{node.state}"
            self._tip.set_text(f"{node.name} = {node.a} + {node.b}: {node.state}")


def _path(job_id: str, node: NodeProgress) -> str:
    return f"/jobs/{job_id}/nodes/{quote(node.name, safe='')}"


def _what(node: NodeProgress) -> str:
    match node.kind:
        case NodeKind.AVERAGE:
            return "uniform merge of all leaves"
        case NodeKind.SCREEN:
            return f"{node.a} alone"
        case NodeKind.COMPOSE:
            return f"{node.name} put together"
        case _:
            return str(node.kind)


def _line(node: NodeProgress) -> str:
    """The second line of a box: its best score and gain, how far it is, or what it waits for."""
    if node.best is None:
        return str(node.state).replace("_", " ")
    if node.state != "done":
        return f"{number(node.best.score)}  {node.trials_done}/{node.trials_planned}"
    gain = node.heldout_gain if node.heldout_gain is not None else node.gain
    return number(node.best.score) + ("" if gain is None else f"  {signed(gain)}")
