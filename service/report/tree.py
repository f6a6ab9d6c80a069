"""The bracket of a job as a drawing: where each box and each line lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from optimizer.bracket import Pick, parse_input
from service.db.records import NodeRecord
from service.db.states import NodeKind

COLUMN, ROW = 212, 62
WIDTH, HEIGHT = 150, 46
MARGIN = 8

Line = Literal["plain", "picked", "passed"]
"""passed: a candidate of a pick that another one won, or that is not decided yet."""


@dataclass(frozen=True)
class Box:
    """A leaf or a merge. x, y: of its upper left corner. node: None for a leaf."""

    name: str
    node: NodeRecord | None
    x: float
    y: float


@dataclass(frozen=True)
class Edge:
    """From a box to the merge that takes it, by their names. path: as SVG has it."""

    source: str
    target: str
    path: str
    line: Line


@dataclass(frozen=True)
class Drawing:
    """A whole tree."""

    width: float
    height: float
    boxes: list[Box]
    edges: list[Edge]


def draw(nodes: Sequence[NodeRecord]) -> Drawing:
    """The tree of a job: leaves to the left, then a column for every level.

    What is decided is drawn as it was decided; what is not, as the table says, with every candidate.
    """
    layout = _Layout([node for node in nodes if node.kind is NodeKind.MERGE])
    boxes = [
        Box(name, layout.merges.get(name), layout.column(name) * COLUMN + MARGIN, y * ROW + MARGIN)
        for name, y in layout.rows.items()
    ]
    places = {box.name: box for box in boxes}
    edges = [
        Edge(source, node.name, _path(places[source], places[node.name]), line)
        for node in layout.merges.values()
        for source, line in layout.inputs(node)
    ]
    return Drawing(
        width=max(box.x for box in boxes) + WIDTH + MARGIN,
        height=max(box.y for box in boxes) + HEIGHT + MARGIN,
        boxes=boxes,
        # What was passed over lies below what was taken.
        edges=sorted(edges, key=lambda edge: edge.line != "passed"),
    )


@dataclass
class _Layout:
    nodes: list[NodeRecord]
    merges: dict[str, NodeRecord] = field(init=False)
    rows: dict[str, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.merges = {node.name: node for node in self.nodes}
        self._by_id = {node.id: node.name for node in self.nodes}
        self._changed_places = dict(self._swaps())
        self._next = 0
        for node in sorted(self.nodes, key=lambda node: (-node.level, -node.position)):
            self._place(node.name)

    def column(self, name: str) -> int:
        return self.merges[name].level if name in self.merges else 0

    def inputs(self, node: NodeRecord) -> list[tuple[str, Line]]:
        """What stands, or may come to stand, at A and B of a merge."""
        return [
            *self._side(node.a_model, node.a_node_id, node.a_input),
            *self._side(node.b_model, node.b_node_id, node.b_input),
        ]

    def _swaps(self) -> Iterator[tuple[str, str]]:
        """Picked node -> the first candidate, where that is another one: elsewhere it stands in its place."""
        for node in self.nodes:
            for text, node_id in ((node.a_input, node.a_node_id), (node.b_input, node.b_node_id)):
                said = parse_input(text or "?")
                if isinstance(said, Pick) and node_id in self._by_id:
                    yield self._by_id[node_id], said.candidates[0]

    def _side(self, model: str | None, node_id: int | None, text: str | None) -> list[tuple[str, Line]]:
        said = parse_input(text or "?")
        taken = model or (self._by_id.get(node_id) if node_id is not None else None)
        if not isinstance(said, Pick):
            return [(taken or self._changed_places.get(said, said), "plain")]
        passed: list[tuple[str, Line]] = [(name, "passed") for name in said.candidates if name != taken]
        return [(taken, "picked"), *passed] if taken else passed

    def _place(self, name: str) -> float:
        if name not in self.rows:
            if name in self.merges:
                below = [source for source, line in self.inputs(self.merges[name]) if line != "passed"]
                rows = [self._place(source) for source in below if source not in self.rows]
            else:
                rows = []
            if not rows:
                rows, self._next = [float(self._next)], self._next + 1
            self.rows[name] = sum(rows) / len(rows)
        return self.rows[name]


def _path(source: Box, target: Box) -> str:
    return line_between((source.x, source.y), (target.x, target.y))


def line_between(source: tuple[float, float], target: tuple[float, float]) -> str:
    """From a box to the one that it goes into, by their upper left corners, as SVG has it."""
    x1, y1 = source[0] + WIDTH, source[1] + HEIGHT / 2
    x2, y2 = target[0], target[1] + HEIGHT / 2
    bend = (x2 - x1) / 2
    return f"M{x1:g} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}"
