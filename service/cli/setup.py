"""What every local command needs first: settings and logging."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option(
        "--settings", help="Settings file (TOML or YAML); else AUTOMBW_SETTINGS, else ./autombw.toml."
    ),
]


def configure_logging(*, quiet: bool = False) -> None:
    """Log to stderr; quiet: only warnings, beside a live display."""
    level = logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("alembic", "httpx", "optuna"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
