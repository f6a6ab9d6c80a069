"""Room is looked at on the disk that will be written to."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.disk import DiskNearlyFull, check_room

MB = 1_000_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB; only root may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_what_fits_beside_the_reserve_passes_and_one_byte_more_does_not(small_disk: Path) -> None:
    free = shutil.disk_usage(small_disk).free
    check_room(small_disk, free - MB, MB)
    with pytest.raises(DiskNearlyFull):
        check_room(small_disk, free - MB + 1, MB)


def test_what_is_written_counts_and_what_is_removed_makes_room_again(small_disk: Path) -> None:
    check_room(small_disk, 2 * MB, MB)
    (small_disk / "image").write_bytes(bytes(2 * MB))
    with pytest.raises(DiskNearlyFull) as caught:
        check_room(small_disk, 2 * MB, MB)
    assert str(caught.value) == (
        f"the disk of {small_disk} has 2 MB free; 2 MB are needed and 1 MB shall stay free: make room, or "
        "lower reserve_mb, then resume the job"
    )
    (small_disk / "image").unlink()
    check_room(small_disk, 2 * MB, MB)


def test_a_folder_that_is_not_there_yet_lies_on_the_disk_of_its_nearest_parent(small_disk: Path) -> None:
    inside = small_disk / "outputs" / "of a job"
    check_room(inside, MB, MB)
    with pytest.raises(DiskNearlyFull, match="of a job has 4 MB free"):
        check_room(inside, 8 * MB, 0)
    assert list(small_disk.iterdir()) == []


def test_an_absurd_reserve_is_never_met_and_is_an_error_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="lower reserve_mb"):
        check_room(tmp_path, 0, 2**80)


def test_a_relative_folder_lies_on_the_disk_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check_room(Path("new/folder"), 1, 0)
