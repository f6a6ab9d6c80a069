"""Engines: SQLite as it must be set for many processes, anything else as SQLAlchemy has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from scoring.errors import InputError

BUSY_TIMEOUT_MS = 60_000
READ_ONLY = "autombw_read_only"


def open_engine(url: str) -> Engine:
    """An engine for `url`. Raises InputError on a URL that is none or a folder that cannot be made."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InputError(
            f"database_url {url!r} is not a database URL; give one such as sqlite:////data/autombw.sqlite3"
        ) from error
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True)
    if parsed.database is None or parsed.database == ":memory:":
        raise InputError("database_url names no file; a database in memory cannot be shared with the worker")
    try:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder of the database {parsed.database}: {error}") from error
    engine = create_engine(parsed)
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    return engine


def _set_up(connection: Any, _record: Any) -> None:
    # The driver must not open transactions by itself: `_begin` does, and says of which kind.
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # A deferred transaction that reads first and writes later fails when another wrote in between;
    # taking the write lock at once waits for its turn instead.
    reading = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
