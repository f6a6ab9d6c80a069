"""What every local command needs first: settings and logging."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

# Progress bars of libraries have no place in a log. Read when they are imported, so it is set before that.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

Config = Annotated[
    Path | None,
    typer.Option(
        "--settings", help="Settings file (TOML or YAML); else AUTOMBW_SETTINGS, else ./autombw.toml."
    ),
]
