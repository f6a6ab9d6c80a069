"""Engines of the two databases: SQLite, set as many processes need it, and PostgreSQL through psycopg."""

from __future__ import annotations

import json
import re
import sqlite3
from enum import IntEnum
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import URL, Connection, Engine, create_engine, event, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import PoolProxiedConnection

from scoring.errors import InputError

BUSY_TIMEOUT_MS = 60_000
CONNECT_SECONDS = 10
# Kept open: a server opens none anew while it is busy. SQLAlchemy allows ten more, as many as threads may ask
# for; a PostgreSQL has 100 for all processes, unless told otherwise, and gets no more.
CONNECTIONS = 15
READ_ONLY = "autombw_read_only"
SQLITE, POSTGRESQL = "sqlite", "postgresql+psycopg"

# Hosting companies hand out `postgres://`, people leave the driver away: both mean the one we bring.
DRIVERS = {
    "sqlite": SQLITE,
    "sqlite+pysqlite": SQLITE,
    "postgres": POSTGRESQL,
    "postgresql": POSTGRESQL,
    "postgresql+psycopg": POSTGRESQL,
}


class Turn(IntEnum):
    """What only one transaction at a time may do: the numbers of PostgreSQL's advisory locks."""

    MIGRATE = 0x6D62_7701
    TAKE_OUTPUT = 0x6D62_7702


def open_engine(url: str) -> Engine:
    """An engine of a database that answers.

    url: sqlite:///FILE, or postgresql://USER:PASSWORD@HOST:PORT/DATABASE. Raises InputError, with the
    password hidden, on a URL that is none and on a database that cannot be opened.
    """
    parsed = _parse(url)
    if parsed.drivername == SQLITE:
        engine, remedy = _sqlite(parsed), "give another file, or make this one readable and writable"
    else:
        engine = _postgresql(parsed)
        remedy = "start PostgreSQL, or correct user, password, host, port and database in database_url"
    try:
        engine.connect().close()
    except DBAPIError as error:
        engine.dispose()
        reason = " ".join(str(error.orig).split())
        raise InputError(f"the database {shown(url)} cannot be opened: {reason}; {remedy}") from error
    return engine


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite database; None for PostgreSQL. Raises InputError on a URL that is none."""
    parsed = _parse(url)
    return Path(parsed.database) if parsed.drivername == SQLITE and parsed.database else None


def reading(engine: Engine) -> Engine:
    """The same connections, for transactions that write nothing: each sees the database of one moment."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{READ_ONLY: True})
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


class CommitCount:
    """A number that another commit changes, where the database tells one without a query: SQLite does."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: PoolProxiedConnection | None = None

    def now(self) -> int | None:
        """The number, after some microseconds; None where there is none: then only a query can tell.

        https://sqlite.org/pragma.html#pragma_data_version: it tells of all connections but its own, which is
        one that nothing else is done with.
        """
        if self._engine.dialect.name != "sqlite":
            return None
        try:
            if self._connection is None:
                self._connection = self._engine.raw_connection()
            found: int = self._connection.cursor().execute("PRAGMA data_version").fetchone()[0]
        except (DBAPIError, sqlite3.Error):
            return None
        return found

    def close(self) -> None:
        """Give its connection back."""
        if self._connection is not None:
            self._connection.close()


def take_turn(connection: Connection, turn: Turn) -> None:
    """Wait until no other transaction has this turn, and have it until the present one ends.

    A writing transaction of SQLite has every turn: see `_begin`.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(int(turn))))


def shown(url: str | URL) -> str:
    """A database URL as it may be shown to people, without its password."""
    text = url if isinstance(url, str) else url.render_as_string(hide_password=False)
    text = re.sub(r"(//[^/:@]*:).*@", r"\1***@", text)
    return re.sub(r"((?:ssl)?password=)[^&]*", r"\1***", text)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise InputError(
            f"database_url {shown(url)!r} is not a database URL; give one such as "
            "sqlite:////data/autombw.sqlite3 or postgresql://user:password@host:5432/database"
        ) from error
    if parsed.drivername not in DRIVERS:
        raise InputError(
            f"database_url {shown(url)!r}: autombw keeps its data in SQLite or PostgreSQL and knows no "
            f"{parsed.drivername!r}; begin the URL with sqlite:// or postgresql://"
        )
    if "@" in (parsed.host or ""):
        raise InputError(f"database_url {shown(url)!r}: write an @ in the user or the password as %40")
    return parsed.set(drivername=DRIVERS[parsed.drivername])


def _sqlite(url: URL) -> Engine:
    if url.database is None or url.database == ":memory:":
        raise InputError("database_url names no file; a database in memory cannot be shared with the worker")
    try:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder of the database {url.database}: {error}") from error
    engine = create_engine(url, pool_size=CONNECTIONS, json_deserializer=_from_json)
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    return engine


def _postgresql(url: URL) -> Engine:
    # A host that drops packets would otherwise be waited for as long as TCP tries, some two minutes.
    given = {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_SECONDS}
    return create_engine(
        url,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args=given,
        json_deserializer=_from_json,
    )


def _from_json(text: str | bytes) -> Any:
    """What a JSON column holds. orjson takes a sixth of the time of the standard library, which is for what
    is no strict JSON: a NaN or half a surrogate pair, copied from a file that another tool wrote."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


def _set_up(connection: Any, _record: Any) -> None:
    # The driver must not open transactions by itself: `_begin` does, and says of which kind.
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        # With NORMAL a commit survives a killed process but not a power cut, and then the fsync of
        # every image that its row names was for nothing. FULL costs one fsync per commit, in the
        # recorder's thread, beside one for each image.
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # A deferred transaction that reads first and writes later fails when another wrote in between;
    # taking the write lock at once waits for its turn instead.
    read_only = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
