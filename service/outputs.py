"""A node's output file: written once, announced before it appears, known again by its hash."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optimizer.checkpoints import sha256_of
from scoring.errors import InputError
from service.catalog import digest
from service.db.records import NewCheckpoint
from service.node_context import ExportFailed, NodeContext

log = logging.getLogger(__name__)
Sealed = Callable[[str], None]


def write_output(
    context: NodeContext, size: int, recipe: dict[str, Any], write: Callable[[Path, Sealed], None]
) -> NewCheckpoint:
    """The output of a node, written now or found as a killed worker left it.

    size: bytes to expect. recipe: as it is stored beside the file. write: (path, sealed) writes the file
    atomically and calls `sealed` with its sha256 when it is complete, right before it gets its name: the
    hash is then stored, so that a successor knows a file whose row was never written.
    Raises ExportFailed, DiskNearlyFull, LeaseLost.
    """
    node, settings = context.node, context.settings
    out = settings.outputs_dir / f"{node.output}.safetensors"
    if not _is_written(out, node.output_sha256):
        context.check_room(settings.outputs_dir, size)
        _write(context, out, write)
    inspection = context.catalog.inspect_file(out)
    return NewCheckpoint(
        name=node.output,
        path=out,
        sha256=digest(inspection),
        size=out.stat().st_size,
        inspection=inspection.model_dump(mode="json"),
        recipe=recipe,
    )


def _is_written(out: Path, announced: str | None) -> bool:
    if announced is None or not out.is_file() or sha256_of(out) != announced:
        return False
    log.info("%s was written before its worker ended; its sha256 is the announced one", out)
    return True


def _write(context: NodeContext, out: Path, write: Callable[[Path, Sealed], None]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    # Of a worker that was killed while it wrote: this node is ours now.
    for left in out.parent.glob(f".{out.name}.*.partial"):
        left.unlink(missing_ok=True)
    log.info("writing %s", out)
    try:
        write(out, lambda sha256: context.store.announce_output(context.lease, sha256))
    except (InputError, OSError) as error:
        # Hours of search are behind it and must not be lost with it.
        log.exception("export of node %d failed", context.node.id)
        raise ExportFailed(
            f"{out} could not be written: {error}; make room or mend that, then retry"
        ) from error
