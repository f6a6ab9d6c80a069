"""Opening a database: by several at once, by an older version, and one that cannot serve."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text

from scoring.errors import InputError
from service.db.engine import open_engine
from service.db.migrate import VERSION_TABLE, alembic_config
from service.db.store import Store
from tests.at_once import in_processes
from tests.postgres import GUARDED, Postgres


def test_opening_twice_changes_nothing(empty_url: str) -> None:
    Store(empty_url).close()
    Store(empty_url).close()


def test_processes_that_start_at_once_upgrade_an_empty_database_once(empty_url: str) -> None:
    heads = in_processes(open_and_tell, [(empty_url,)] * 3)
    with open_engine(empty_url).connect() as connection:
        scripts = ScriptDirectory.from_config(alembic_config(connection))
    assert heads == [scripts.get_current_head()] * 3


def open_and_tell(url: str) -> str | None:
    """Open a store as a new process does; the schema it finds then."""
    store = Store(url)
    with store.engine.connect() as connection:
        revision: str | None = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
    store.close()
    return revision


def test_a_database_of_a_newer_version_is_refused_and_left_alone(empty_url: str) -> None:
    store = Store(empty_url)
    with store.engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(InputError, match=r"newer autombw \(schema 9999.*upgrade autombw"):
        Store(empty_url)
    with store.engine.connect() as connection:
        assert connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}")) == "9999"
    store.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("not a url", "'not a url' is not a database URL; give one such as sqlite:///"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("mysql://user:secret@host/db", "knows no 'mysql'"),
        ("postgresql+asyncpg://user:secret@host/db", "begin the URL with sqlite:// or postgresql://"),
        ("postgresql://user:secret@host:port/db", r"'postgresql://user:\*\*\*@host:port/db' is not"),
        ("postgresql://user:p@secret@host/db", "write an @ in the user or the password as %40"),
        ("postgres://user:secret@127.0.0.1:1/db", r"user:\*\*\*@127.0.0.1:1/db cannot be opened: .*refused"),
        ("postgresql://user@nowhere.invalid/db?password=secret", r"password=\*\*\* cannot be opened"),
    ],
)
def test_a_url_that_cannot_serve_is_refused_without_its_password(url: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Store(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("these are notes, and no database " * 100)
    with pytest.raises(InputError, match=r"notes.txt cannot be opened: file is not a database; give another"):
        Store(f"sqlite:///{file}")
    with pytest.raises(InputError, match="unable to open"):
        Store(f"sqlite:///{tmp_path}")


def test_a_wrong_password_is_said_but_not_shown(postgres: Postgres) -> None:
    with pytest.raises(InputError, match=r"guarded:\*\*\*@.*password authentication failed.*correct"):
        Store(postgres.url("postgres", GUARDED, "secret"))


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_way_to_write_a_postgresql_url_is_understood(scheme: str, postgres: Postgres) -> None:
    with postgres.empty_database() as url:
        Store(url.replace("postgresql+psycopg", scheme)).close()
