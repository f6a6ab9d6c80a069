"""What a killed process left half written is removed, and only that."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from service.images import TEMPORARY, sweep_temporaries


def test_temporaries_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder, host = tmp_path / TEMPORARY, socket.gethostname()
    folder.mkdir()
    names = {
        "dead": f"{host}.{dead.pid}.abc123.tmp",
        "alive": f"{host}.{os.getpid()}.abc123.tmp",
        "elsewhere": f"other-{host}.{dead.pid}.abc123.tmp",
    }
    for name in names.values():
        (folder / name).write_bytes(b"half")
    sweep_temporaries(tmp_path)
    assert {path.name for path in folder.iterdir()} == {names["alive"], names["elsewhere"]}


def test_a_folder_that_is_not_there_has_none(tmp_path: Path) -> None:
    sweep_temporaries(tmp_path / "none")
