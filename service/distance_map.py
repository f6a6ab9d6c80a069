"""The picture of how far models lie from each other, with arrows from parents to what was merged of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optimizer.checkpoints import open_checkpoint
from optimizer.checkpoints.hashes import HashCache
from optimizer.distances import Distances
from optimizer.lineage import Known, parents_in
from optimizer.maps import classical_mds, draw_map


def draw_distance_map(
    out: Path, found: Distances, names: Sequence[str], paths: Sequence[Path], cache: Path
) -> None:
    """Draw the UNets' L2 distances to a file. cache: where hashes are kept. Raises InputError."""
    hashes = HashCache(cache)
    known = [Known(path.name, hashes.sha256(path)) for path in paths]
    arrows = []
    for child, path in enumerate(paths):
        with open_checkpoint(path) as file:
            arrows += [(parent, child) for parent in parents_in(file, known) if parent != child]
    title = f"UNets of {len(names)} models by their L2 distance"
    draw_map(out, classical_mds(found.l2("unet")), list(names), arrows, title)
