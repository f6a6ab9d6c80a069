"""Bring a database to this version's schema, and refuse one that a newer version wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from scoring.errors import InputError
from service.db.engine import Turn, shown, take_turn

VERSION_TABLE = "autombw_version"
SCRIPTS = Path(__file__).resolve().parents[2] / "migrations"


def upgrade(engine: Engine) -> None:
    """Upgrade in one transaction; of several that start at once, one upgrades and the others wait.

    Raises InputError when the database is from a newer autombw.
    """
    with _remaking_tables(engine) as connection:
        take_turn(connection, Turn.MIGRATE)
        config = alembic_config(connection)
        scripts = ScriptDirectory.from_config(config)
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        current = context.get_current_revision()
        known = {script.revision for script in scripts.walk_revisions()}
        if current is not None and current not in known:
            raise InputError(
                f"the database {shown(engine.url)} was written by a newer autombw (schema {current}, this "
                f"one knows up to {scripts.get_current_head()}); upgrade autombw or use another database"
            )
        if current == scripts.get_current_head():
            return
        command.upgrade(config, "head")
        _check_references(connection)


def is_current(engine: Engine) -> bool:
    """Whether a database has this version's schema."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        scripts = ScriptDirectory.from_config(alembic_config(connection))
        return context.get_current_revision() == scripts.get_current_head()


def alembic_config(connection: Connection) -> Config:
    """Alembic's settings for its commands on an open connection."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _remaking_tables(engine: Engine) -> Iterator[Connection]:
    """A transaction in which SQLite lets go of a table that others refer to.

    SQLite alters most of a table by making it anew and dropping the old one, which foreign keys forbid; and
    they can only be switched off outside of a transaction.
    """
    with engine.connect() as connection:
        sqlite = connection.connection.dbapi_connection if engine.dialect.name == "sqlite" else None
        if sqlite is not None:
            sqlite.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
                yield connection
        finally:
            if sqlite is not None:
                sqlite.execute("PRAGMA foreign_keys=ON")


def _check_references(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        if broken:
            raise RuntimeError(f"the upgrade would leave rows that refer to nothing: {broken[:5]}")
