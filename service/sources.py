"""The checkpoints that go into a node, each checked to be the file that the job means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from optimizer.checkpoints import Inspection
from scoring.errors import InputError
from service.catalog import Catalog, digest
from service.db.records import NodeRecord
from service.db.store import Store


@dataclass(frozen=True)
class Source:
    """A checkpoint that goes into a node: a leaf, or the output of another node."""

    name: str
    path: Path
    inspection: Inspection


def source_of(store: Store, catalog: Catalog, node: NodeRecord, side: str) -> Source:
    """What stands at `side` of a node, "a" or "b". Raises InputError when it is not the file it was."""
    model, node_id = getattr(node, f"{side}_model"), getattr(node, f"{side}_node_id")
    sha256 = getattr(node, f"{side}_sha256")
    if model is not None:
        return leaf_of(catalog, model, sha256)
    made = None if node_id is None else store.checkpoint(node_id)
    if made is None:
        raise InputError(f"node {node.name} has an input that is not made yet")
    again = f"make it again with `autombw export {node.job_id} --node {store.node(node_id).name}`"
    if not Path(made.path).is_file():
        raise InputError(f"{made.path}, which goes into node {node.name}, is gone; {again}")
    remedy = f"put that file back, or move this one away and {again}"
    return Source(made.name, Path(made.path), _unchanged(catalog, Path(made.path), made.name, sha256, remedy))


def leaf_of(catalog: Catalog, name: str, sha256: str | None) -> Source:
    """A model of the models folder. Raises InputError when it is not the file it was."""
    path = catalog.path(name)
    remedy = "put that back or submit a new job"
    return Source(name, path, _unchanged(catalog, path, name, sha256, remedy))


def _unchanged(catalog: Catalog, path: Path, name: str, sha256: str | None, remedy: str) -> Inspection:
    inspection = catalog.inspect_file(path)
    if digest(inspection) != sha256:
        raise InputError(
            f"model {name!r} is not the file it was when the job was queued (sha256 "
            f"{inspection.sha256}, then {sha256}); {remedy}"
        )
    return inspection
