"""Commands that save an installation and bring it back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.output import AsJson, console, print_json
from service.cli.setup import Config
from service.settings import load_settings

# SQLAlchemy takes a while to import, which other commands need not pay.
if TYPE_CHECKING:
    from service.manifest import Manifest

SHOWN = 50
PG_DUMP, PG_RESTORE = "pg_dump --format=custom", "pg_restore --no-owner"


def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that does not exist yet.")],
    config: Config = None,
    files: Annotated[
        bool, typer.Option(help="Save renders and merged checkpoints too, not the database alone.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Save the database and all files it names, while the service runs; exit code 1 when some are missing."""
    from service.backup import back_up

    made = back_up(load_settings(config), folder, with_files=files)
    if made.database_sha256 is None and not as_json:
        console.print(
            f"The database is PostgreSQL: this is a backup of its files. `{PG_DUMP}` saves the database "
            "itself (docs/operations.md); run it before this command, so that no file it names is missing.",
            style="yellow",
        )
    _report("saved", folder, made, as_json)


def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `autombw backup` made.")],
    into: Annotated[Path | None, typer.Option(help="Data folder; that of the settings if not given.")] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Put a backup back, with every file checked; exit code 1 when some are missing or damaged."""
    from service import backup
    from service.db.engine import sqlite_file

    settings = load_settings(config)
    data_dir = into.absolute() if into else settings.data_dir
    database = data_dir / backup.DATABASE if into else sqlite_file(settings.database_url)
    put = backup.restore(folder, data_dir, database)
    if put.database_sha256 is None and not as_json:
        console.print(
            f"The database is PostgreSQL: these are its files. `{PG_RESTORE}` brings it back.", style="yellow"
        )
    _report("restored", data_dir, put, as_json)


def _report(done: str, where: Path, manifest: Manifest, as_json: bool) -> None:
    lost = manifest.not_present()
    count, size = len(manifest.files) - len(lost), sum(file.size or 0 for file in manifest.files)
    if as_json:
        print_json(
            {
                "folder": str(where),
                "database": manifest.database_sha256 is not None,
                "files": count,
                "bytes": size,
                "not_present": [file.model_dump(mode="json") for file in lost],
            }
        )
    else:
        console.print(f"{done}: {where}, {count} files, {size / 1e6:.1f} MB", highlight=False, soft_wrap=True)
        for file in lost[:SHOWN]:
            console.print(f"{file.state}: {file.path}", style="red", highlight=False, soft_wrap=True)
        if len(lost) > SHOWN:
            console.print(f"and {len(lost) - SHOWN} more; --json names them all", style="red")
    raise typer.Exit(1 if lost else 0)
