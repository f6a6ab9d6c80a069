"""The tree of a job's nodes in SQL: which inputs are decided by now, and which nodes may begin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from sqlalchemy.orm import Session

from optimizer.bracket import Bracket, Pick, explicit, parse_input, resolve, seeded_by_score
from service.db.database import move_node, record
from service.db.models import Job, Node
from service.db.records import NewNode, NodeHead, NodeRecord
from service.db.states import NodeKind, NodeState

AnyNode = TypeVar("AnyNode", Node, NodeHead, NodeRecord, NewNode)

RANKED = "#"
"""What a place in the leaves' ranking begins with: `#1` is the leaf of the highest score."""

SCORED_ALONE = (NodeKind.SCREEN, NodeKind.REFERENCE)
"""Nodes that score one leaf alone."""

UNDECIDED = (NodeState.WAITING, NodeState.READY, NodeState.PAUSED)


def ranked(count: int) -> list[str]:
    """`#1`, `#2`, …: the places that a bracket is laid over before the leaves are ranked."""
    return [f"{RANKED}{place}" for place in range(1, count + 1)]


def bracket_of(nodes: Iterable[Node | NodeHead | NewNode]) -> Bracket:
    """The bracket that the merges of a job were laid by."""
    return explicit(
        [
            {"o": node.name, "a": node.a_input or "", "b": node.b_input or ""}
            for node in nodes
            if node.kind is NodeKind.MERGE
        ]
    )


def final_node(nodes: Sequence[AnyNode]) -> AnyNode:
    """The node whose output is the job's result."""
    name = bracket_of(nodes).nodes[-1].output
    return next(node for node in nodes if node.name == name)


def mentions(node: Node, name: str) -> bool:
    """Whether a node takes, or may pick, the output `name`."""
    given = [parse_input(text) for text in (node.a_input, node.b_input) if text]
    return any(name in (side.candidates if isinstance(side, Pick) else (side,)) for side in given)


def is_measured(job: Job) -> bool:
    """Whether scores can be told: by raw numbers, or by a reference that is done."""
    return all(node.state is NodeState.DONE for node in job.nodes if node.kind is NodeKind.REFERENCE)


def settle(session: Session, job: Job) -> None:
    """Decide the inputs of the merges that have not begun, from what is done; let those begin that can.

    Leaves that are put together begin at once. Nothing else but the reference begins before there is one,
    where the job needs it. What was decided before is decided again: a node whose input is no longer made
    waits once more.
    """
    _note_made_leaves(job)
    files = composed(job.nodes)
    for node in job.nodes:
        if node.kind is not NodeKind.MERGE and node.started_at is None:
            _settle_unsearched(session, job, node, files)
    if not is_measured(job):
        return
    merges = [node for node in job.nodes if node.kind is NodeKind.MERGE]
    done = [node for node in merges if node.state is NodeState.DONE]
    leaves = _leaves(job)
    decided = resolve(bracket_of(merges), {n.name: n.score for n in done if n.score is not None})
    made = {node.name: node for node in merges} | files
    for node in merges:
        if node.started_at is not None or node.state not in UNDECIDED:
            continue
        names = decided.get(node.name)
        inputs = None if names is None else [leaves.get(name, name) for name in names]
        known = inputs if inputs and all(name and _is_made(job, name) for name in inputs) else None
        _decide(session, job, node, known, made)


def _settle_unsearched(session: Session, job: Job, node: Node, files: dict[str, Node]) -> None:
    if node.kind in SCORED_ALONE and node.a_input:
        node.a_sha256 = job.leaves[node.a_input]
        node.a_node_id = files[node.a_input].id if node.a_input in files else None
    if node.state is NodeState.WAITING and can_begin(job, node):
        move_node(session, node, NodeState.READY)
    elif node.state is NodeState.READY and not can_begin(job, node):
        move_node(session, node, NodeState.WAITING)


def composed(nodes: Iterable[AnyNode]) -> dict[str, AnyNode]:
    """Leaf -> the node that puts it together, for those that are."""
    return {node.name: node for node in nodes if node.kind is NodeKind.COMPOSE}


def can_begin(job: Job, node: Node) -> bool:
    """Whether a node that is no merge can begin: what it scores, a leaf or all of them, is there."""
    if node.kind is NodeKind.COMPOSE:
        return True
    wanted = [node.a_input] if node.a_input else list(job.leaves)
    there = all(_is_made(job, name) for name in wanted)
    return there and (node.kind is NodeKind.REFERENCE or is_measured(job))


def _is_made(job: Job, name: str) -> bool:
    """Whether a leaf is there; the output of a node is no leaf and counts as it stands."""
    return name not in job.leaves or job.leaves[name] is not None


def _note_made_leaves(job: Job) -> None:
    files = composed(job.nodes)
    made = {name: node.output_sha256 for name, node in files.items() if node.state is NodeState.DONE}
    if any(job.leaves.get(name) != sha256 for name, sha256 in made.items()):
        # A new dict: SQLAlchemy does not see a change within a JSON value.
        job.leaves = {**job.leaves, **made}


def _decide(
    session: Session, job: Job, node: Node, inputs: Sequence[str | None] | None, made: dict[str, Node]
) -> None:
    before = (node.a_model, node.a_node_id, node.b_model, node.b_node_id)
    for side, name in zip("ab", inputs or (None, None), strict=True):
        source = made.get(name or "")
        setattr(node, f"{side}_model", name if name in job.leaves else None)
        setattr(node, f"{side}_node_id", None if source is None else source.id)
        sha256 = job.leaves.get(name or "") if source is None else source.output_sha256
        setattr(node, f"{side}_sha256", sha256)
    if inputs and before != (node.a_model, node.a_node_id, node.b_model, node.b_node_id):
        data = {"node": node.name, "position": node.position, "a": inputs[0], "b": inputs[1]}
        record(session, job.id, "node.decided", data, node.id)
    if node.state is NodeState.WAITING and inputs:
        move_node(session, node, NodeState.READY)
    elif node.state is NodeState.READY and not inputs:
        move_node(session, node, NodeState.WAITING)


def _leaves(job: Job) -> dict[str, str | None]:
    """Place in the ranking -> leaf, or None until every leaf is screened; empty where none is ranked."""
    screens = [node for node in job.nodes if node.kind is NodeKind.SCREEN]
    if not screens:
        return {}
    places = ranked(len(screens))
    scores = {node.a_model or "": node.score for node in screens if node.score is not None}
    if len(scores) < len(screens):
        return dict.fromkeys(places)
    order = [leaf for leaf in job.leaves if leaf in scores]
    return dict(zip(places, seeded_by_score(order, scores), strict=True))
