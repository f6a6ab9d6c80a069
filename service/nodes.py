"""Which nodes of a job are meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from service.db.records import NodeHead, NodeRecord
from service.db.states import NodeKind
from service.db.store import Store
from service.db.tree import final_node
from service.errors import NotFound

AnyHead = TypeVar("AnyHead", bound=NodeHead)


def nodes_of(store: Store, job_id: str, name: str | None) -> list[NodeRecord]:
    """The node of a job by name or position, all of them for None. Raises NotFound."""
    nodes = store.nodes(job_id)
    return nodes if name is None else [_meant(nodes, name)]


def head_of(store: Store, job_id: str, name: str | None) -> NodeHead:
    """The node of a job by name or position, the final one for None. Raises NotFound."""
    heads = store.node_heads(job_id)
    return final_node(heads) if name is None else _meant(heads, name)


def node_of(store: Store, job_id: str, name: str | None) -> NodeRecord:
    """The same with its plan and all else."""
    return store.node(head_of(store, job_id, name).id)


def merges_of(store: Store, job_id: str, name: str | None) -> list[NodeRecord]:
    """The merge of a job by name or position, all of them for None. Raises NotFound."""
    merges = [node for node in nodes_of(store, job_id, name) if node.kind is NodeKind.MERGE]
    if not merges:
        raise NotFound(f"node {name} of job {job_id} is no merge: it scores one checkpoint without a search")
    return merges


def _meant(nodes: Sequence[AnyHead], name: str) -> AnyHead:
    """The one of a job's nodes that has this name, or else this position. Raises NotFound."""
    # A name may look like another node's position.
    named = [node for node in nodes if node.name == name] or [
        node for node in nodes if str(node.position) == name
    ]
    if not named:
        names = ", ".join(node.name for node in nodes)
        raise NotFound(f"job {nodes[0].job_id} has no node {name!r}; its nodes are {names}")
    return named[0]
