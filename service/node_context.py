"""What the run of a node works with, and how it can end early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from optimizer.checkpoints.hashes import HashCache
from optimizer.checkpoints.parts import Component
from service.catalog import Catalog
from service.db.records import Lease, NodeRecord
from service.db.store import Store
from service.disk import check_room
from service.jobs import NodePlan
from service.settings import Settings
from service.sources import Source, leaves_of, part_paths, source_of


class NodePaused(RuntimeError):
    """The node stopped itself; the message is the diagnosis."""


class ExportFailed(RuntimeError):
    """The result could not be written; the message is the reason."""


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

    @property
    def embeddings(self) -> Path | None:
        """The folder of textual inversions, where there is one."""
        return self.settings.embeddings_dir if self.settings.embeddings_dir.is_dir() else None

    def source(self, side: str) -> Source:
        """What stands at `side`, "a" or "b". Raises InputError when it is not the file it was."""
        return source_of(self.store, self.catalog, self.node, side)

    def leaves(self) -> list[Source]:
        """All leaves of the job, in order. Raises InputError when one is not the file it was."""
        return leaves_of(self.store, self.catalog, self.node)

    def parts(self) -> dict[Component, list[Path]]:
        """The files of the components that the plan names. Raises InputError when one is not what it was."""
        return part_paths(self.catalog, HashCache(self.settings.cache_dir), self.plan.parts)

    def check_room(self, folder: Path, needed: int) -> None:
        """Raises DiskNearlyFull unless `needed` bytes leave the reserve of the settings free."""
        check_room(folder, needed, self.settings.reserve_mb * 1_000_000)
