"""The checkpoints that go into a node, each checked to be the file that the job means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from optimizer.checkpoints import Inspection
from optimizer.checkpoints.hashes import HashCache
from optimizer.checkpoints.parts import Component
from scoring.errors import InputError
from service.catalog import Catalog, digest
from service.db.records import NodeRecord
from service.db.store import Store
from service.db.tree import composed
from service.leaves import Parts


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
    if node_id is not None:
        return made_by(store, catalog, store.node(node_id), sha256, node.name)
    if model is None:
        raise InputError(f"node {node.name} has an input that is not made yet")
    return leaf_of(catalog, model, sha256)


def leaves_of(store: Store, catalog: Catalog, node: NodeRecord) -> list[Source]:
    """All leaves of the job of a node, in order. Raises InputError when one is not the file it was."""
    files = composed(store.nodes(node.job_id))
    return [
        made_by(store, catalog, files[name], sha256, node.name)
        if name in files
        else leaf_of(catalog, name, sha256)
        for name, sha256 in store.job(node.job_id).leaves.items()
    ]


def made_by(store: Store, catalog: Catalog, maker: NodeRecord, sha256: str | None, wanted_by: str) -> Source:
    """The output of a node. wanted_by: the node that it goes into. Raises InputError as `source_of`."""
    made = store.checkpoint(maker.id)
    if made is None:
        raise InputError(f"node {wanted_by} has an input that is not made yet")
    again = f"make it again with `autombw export {maker.job_id} --node {maker.name}`"
    path = Path(made.path)
    if not path.is_file():
        raise InputError(f"{path}, which goes into node {wanted_by}, is gone; {again}")
    remedy = f"put that file back, or move this one away and {again}"
    return Source(made.name, path, _unchanged(catalog, path, made.name, sha256, remedy))


def leaf_of(catalog: Catalog, name: str, sha256: str | None) -> Source:
    """A model of the models folder. Raises InputError when it is not the file it was."""
    path = catalog.path(name)
    remedy = "put that back or submit a new job"
    return Source(name, path, _unchanged(catalog, path, name, sha256, remedy))


def part_paths(catalog: Catalog, hashes: HashCache, parts: Parts) -> dict[Component, list[Path]]:
    """The files of components. Raises InputError when one is not the file that it was."""
    return {
        part: [_part_path(catalog, hashes, source.name, source.sha256) for source in several]
        for part, several in parts.items()
    }


def _part_path(catalog: Catalog, hashes: HashCache, name: str, sha256: str) -> Path:
    path = catalog.path(name)
    found = hashes.sha256(path)
    if found != sha256:
        raise InputError(
            f"model {name!r} is not the file it was when the job was queued (sha256 {found}, then {sha256}); "
            "put that back or submit a new job"
        )
    return path


def _unchanged(catalog: Catalog, path: Path, name: str, sha256: str | None, remedy: str) -> Inspection:
    inspection = catalog.inspect_file(path)
    if digest(inspection) != sha256:
        raise InputError(
            f"model {name!r} is not the file it was when the job was queued (sha256 "
            f"{inspection.sha256}, then {sha256}); {remedy}"
        )
    return inspection
