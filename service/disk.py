"""Room on the disk, looked at before something is written."""

from __future__ import annotations

import shutil
from pathlib import Path


class DiskNearlyFull(OSError):
    """There is not room for what was about to be written; nothing of it was."""


def check_room(folder: Path, needed: int, reserve: int) -> None:
    """Raise DiskNearlyFull unless `needed` bytes fit on the disk of `folder` and leave `reserve` bytes free.

    A folder that does not exist yet lies on the disk of its nearest parent that does.
    """
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free - needed < reserve:
        raise DiskNearlyFull(
            f"the disk of {folder} has {free // 1_000_000} MB free; {needed // 1_000_000} MB are needed and "
            f"{reserve // 1_000_000} MB shall stay free: make room, or lower reserve_mb, then resume the job"
        )
