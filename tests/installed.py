"""A package with scorers of its own, as good as installed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest


def install_scorers(
    folder: Path, monkeypatch: pytest.MonkeyPatch, package: str, scorers: Mapping[str, str], source: str
) -> None:
    """Put a module `package` of this source on the path; its names are the scorers' entry points.

    scorers: name of the scorer -> name in the module. It is off the path again when the test ends.
    """
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    entries = "".join(f"{name} = {package}:{factory}\n" for name, factory in scorers.items())
    (info / "entry_points.txt").write_text(f"[autombw.scorers]\n{entries}")
    (folder / f"{package}.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop(package, None)  # that of another test would be taken for it
