"""Which nodes of a job are meant."""

from __future__ import annotations

from service.db.records import NodeRecord
from service.db.states import NodeKind
from service.db.store import Store
from service.errors import NotFound


def nodes_of(store: Store, job_id: str, name: str | None) -> list[NodeRecord]:
    """The node of a job by name or position, all of them for None. Raises NotFound."""
    nodes = store.nodes(job_id)
    if name is None:
        return nodes
    found = [node for node in nodes if name in (node.name, str(node.position))]
    if not found:
        names = ", ".join(node.name for node in nodes)
        raise NotFound(f"job {job_id} has no node {name!r}; its nodes are {names}")
    # A name may look like another node's position.
    return [next((node for node in found if node.name == name), found[0])]


def merges_of(store: Store, job_id: str, name: str | None) -> list[NodeRecord]:
    """The merge of a job by name or position, all of them for None. Raises NotFound."""
    merges = [node for node in nodes_of(store, job_id, name) if node.kind is NodeKind.MERGE]
    if not merges:
        raise NotFound(f"node {name} of job {job_id} is no merge: it scores one checkpoint without a search")
    return merges
