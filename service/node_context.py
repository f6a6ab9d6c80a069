"""What the run of a node works with, and how it can end early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from optimizer.checkpoints import Inspection
from scoring.errors import InputError
from service.catalog import Catalog, digest
from service.db.records import Lease, NodeRecord
from service.db.store import Store
from service.disk import check_room
from service.jobs import NodePlan
from service.settings import Settings


class NodePaused(RuntimeError):
    """The node stopped itself; the message is the diagnosis."""


class ExportFailed(RuntimeError):
    """The result could not be written; the message is the reason."""


@dataclass(frozen=True)
class Source:
    """A checkpoint that goes into a node: a leaf, or the output of another node."""

    name: str
    path: Path
    inspection: Inspection


@dataclass(frozen=True)
class NodeContext:
    """A leased node and everything its run needs.

    `check` is called between denoising steps and between trials: it raises Interrupted or LeaseLost.
    """

    settings: Settings
    store: Store
    catalog: Catalog
    lease: Lease
    node: NodeRecord
    plan: NodePlan
    check: Callable[[], None]

    @property
    def device(self) -> str:
        """The device to render on."""
        return self.settings.resolved_device()

    @property
    def dtype(self) -> torch.dtype:
        """The numbers to render in."""
        dtype: torch.dtype = getattr(torch, self.settings.resolved_dtype())
        return dtype

    def source(self, side: str) -> Source:
        """What stands at `side`, "a" or "b". Raises InputError when it is not the file it was."""
        model, node_id = getattr(self.node, f"{side}_model"), getattr(self.node, f"{side}_node_id")
        sha256 = getattr(self.node, f"{side}_sha256")
        if model is not None:
            return self.leaf(model, sha256)
        made = None if node_id is None else self.store.checkpoint(node_id)
        if made is None:
            raise InputError(f"node {self.node.name} has an input that is not made yet")
        remedy = "put that file back, or extend the node that made it by one trial, which writes it again"
        inspection = self._unchanged(Path(made.path), made.name, sha256, remedy)
        return Source(made.name, Path(made.path), inspection)

    def leaf(self, name: str, sha256: str | None) -> Source:
        """A model of the models folder. Raises InputError when it is not the file it was."""
        path = self.catalog.path(name)
        return Source(name, path, self._unchanged(path, name, sha256, "put that back or submit a new job"))

    def check_room(self, folder: Path, needed: int) -> None:
        """Raises DiskNearlyFull unless `needed` bytes leave the reserve of the settings free."""
        check_room(folder, needed, self.settings.reserve_mb * 1_000_000)

    def _unchanged(self, path: Path, name: str, sha256: str | None, remedy: str) -> Inspection:
        inspection = self.catalog.inspect_file(path)
        if digest(inspection) != sha256:
            raise InputError(
                f"model {name!r} is not the file it was when the job was queued (sha256 "
                f"{inspection.sha256}, then {sha256}); {remedy}"
            )
        return inspection
