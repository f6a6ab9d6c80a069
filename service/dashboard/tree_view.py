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
    """The drawing, made anew when a node of it changed."""

    def __init__(self, job_id: str) -> None:
        self._id = job_id
        with ui.element("div").classes("table-scroll"):
            self._box = ui.element("div").classes("tree")
        self._aside = ui.element("div").classes("actions")
        self._seen: object = None

    def show(self, view: JobView) -> None:
        nodes = view.line.progress.nodes
        seen = [
            (n.name, n.state, n.a, n.b, n.trials_done, n.best and n.best.score, n.heldout_gain) for n in nodes
        ]
        if seen != self._seen:
            self._seen = seen
            self._box.clear()
            self._aside.clear()
            with self._box:
                self._draw(view)
            with self._aside:
                self._others(nodes)

    def _draw(self, view: JobView) -> None:
        drawing = draw(view.nodes)
        progress = {node.name: node for node in view.line.progress.nodes}
        leaves = view.line.progress.result.leaves
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
                scores = leaves.get(box.name)
                with ui.element("div").classes("box leaf").style(place) as leaf:
                    ui.label(box.name).classes("box-name")
                    ui.label(number(scores.search) if scores and scores.search else "leaf").classes(
                        "box-line"
                    )
                    leaf.tooltip(box.name)
            else:
                self._merge(progress[box.name], place)

    def _merge(self, node: NodeProgress, place: str) -> None:
        path = f"/jobs/{self._id}/nodes/{quote(node.name, safe='')}"
        words = f"{node.name}, {node.state}, {node.trials_done} of {node.trials_planned} trials"
        with ui.link(target=path).classes(f"box merge state-{node.state}").style(place) as link:
            ui.label(node.name + (" ★" if node.final else "")).classes("box-name")
            ui.label(_line(node)).classes("box-line")
            tip = f"{node.name} = {node.a} + {node.b}: {node.state}"
            ui.tooltip(tip)
        link.props["aria-label"] = words

    def _others(self, nodes: list[NodeProgress]) -> None:
        for node in nodes:
            if node.kind is not NodeKind.MERGE:
                score = f" {number(node.best.score)}" if node.best else ""
                path = f"/jobs/{self._id}/nodes/{quote(node.name, safe='')}"
                with ui.link(target=path).classes(f"chip state-{node.state}"):
                    ui.label(f"{_what(node)}: {node.state}{score}")


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
