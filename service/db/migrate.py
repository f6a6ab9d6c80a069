"""Bring a database to this version's schema, and refuse one that a newer version wrote."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from scoring.errors import InputError

VERSION_TABLE = "autombw_version"
SCRIPTS = Path(__file__).resolve().parents[2] / "migrations"


def upgrade(engine: Engine) -> None:
    """Upgrade in one transaction. Raises InputError when the database is from a newer autombw."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        current = context.get_current_revision()
        known = {script.revision for script in scripts.walk_revisions()}
        if current is not None and current not in known:
            raise InputError(
                f"the database {engine.url} was written by a newer autombw (schema {current}, this one knows "
                f"up to {scripts.get_current_head()}); upgrade autombw or use another data_dir"
            )
        if current == scripts.get_current_head():
            return
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
