"""What every local command needs first: settings and logging."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from service.settings import Settings

# Progress bars of libraries have no place in a log. Read when they are imported, so it is set before that.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
OWN_PACKAGES = ("service", "optimizer", "scoring")

Config = Annotated[
    Path | None,
    typer.Option(
        "--settings", help="Settings file (TOML or YAML); else AUTOMBW_SETTINGS, else ./autombw.toml."
    ),
]


def configure_logging(settings: Settings, *, quiet: bool = False) -> None:
    """Log to stderr as the settings say; quiet: no less than warnings, beside a live display.

    The level is that of our own packages: what libraries say below INFO is of no use to a user.
    """
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    if quiet:
        level = max(level, logging.WARNING)
    logging.basicConfig(
        level=max(level, logging.INFO), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for own in OWN_PACKAGES:
        logging.getLogger(own).setLevel(level)
    for noisy in ("alembic", "httpx", "optuna"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
