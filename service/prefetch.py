"""The files of the node that comes next are read while this one searches, so that it begins at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from pathlib import Path

from scoring.errors import InputError
from service.catalog import Catalog
from service.db.records import NodeRecord
from service.db.states import NodeKind, NodeState
from service.db.store import Store

log = logging.getLogger(__name__)
_CHUNK = 8 * 2**20
_NEXT = (NodeState.READY, NodeState.WAITING)


def read_ahead(paths: Iterable[Path], catalog: Catalog | None = None) -> threading.Thread:
    """Read files, or folders of files, into the page cache, in a thread of its own.

    catalog: inspects them too, so that the node finds their hashes and statistics; that takes more of the CPU
    than reading does. What can't be read is left out: the node that needs it will say so.
    """
    thread = threading.Thread(target=_read_all, args=(list(paths), catalog), name="prefetch", daemon=True)
    thread.start()
    return thread


def next_files(store: Store, catalog: Catalog, node: NodeRecord) -> list[Path]:
    """The models that the next merge of the same job takes and that are there already.

    The next is the first one that could begin now; where none can, the first one that waits.
    """
    merges = [n for n in store.nodes(node.job_id) if n.kind is NodeKind.MERGE and n.id != node.id]
    queued = [n for n in merges if n.state in _NEXT]
    if not queued:
        return []
    following = min(queued, key=lambda n: (_NEXT.index(n.state), n.position))
    leaves = store.job(node.job_id).leaves
    sides = [_side(store, catalog, following, side, leaves) for side in "ab"]
    return [path for path in sides if path is not None and path.exists()]


def _side(
    store: Store, catalog: Catalog, node: NodeRecord, side: str, leaves: dict[str, str | None]
) -> Path | None:
    node_id = getattr(node, f"{side}_node_id")
    if node_id is not None:
        made = store.checkpoint(node_id)
        return None if made is None else Path(made.path)
    # A merge is decided as a whole; one that waits for the other side has its leaf by name.
    name = getattr(node, f"{side}_model") or getattr(node, f"{side}_input")
    if name not in leaves:
        return None
    try:
        return catalog.path(name)
    except InputError:
        return None


def _read_all(paths: list[Path], catalog: Catalog | None) -> None:
    for path in paths:
        try:
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                _read(file)
            if catalog is not None:
                catalog.inspect_file(path)
        except (OSError, InputError) as error:
            log.info("%s is not read ahead: %s", path, error)


def _read(file: Path) -> None:
    # POSIX_FADV_WILLNEED reads no more than the device's read-ahead window of a large file.
    if file.is_file():
        buffer = bytearray(_CHUNK)
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass
