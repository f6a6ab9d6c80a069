"""Backups: the database as it was at one moment, and every file that it names, known by its sha256.

A backup is a folder: `manifest.json`, the database, and `renders/` and `outputs/` as they lie in the data
folder. The manifest is written last: a folder without one is not a whole backup. Renders and outputs are
never changed in place, only replaced by rename, so a hard link to one keeps what it holds and costs nothing.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import URL, Connection, MetaData, Table, create_engine, inspect, select

from scoring.errors import InputError
from service.db.engine import BUSY_TIMEOUT_MS, open_engine, shown, sqlite_file
from service.db.states import RenderState
from service.errors import Conflict
from service.images import path_of
from service.manifest import MANIFEST, FileState, Manifest, NamedFile, look_at, read_manifest, sha256_of
from service.settings import Settings

DATABASE = "autombw.sqlite3"


def back_up(settings: Settings, folder: Path, *, with_files: bool = True) -> Manifest:
    """Make a backup in a new folder while the service runs.

    with_files: link the renders and outputs into it (copy them where the disk is another one); without,
    they are only checked. PostgreSQL's own pg_dump saves its database; here its files are. Files that
    cannot be saved are in the manifest. Raises InputError when there is no database, it is damaged, or the
    backup cannot be written, and Conflict when the folder has something in it.
    """
    with _said(f"the backup {folder} cannot be written"):
        _make_empty(folder)
        with _snapshot(settings.database_url, folder) as database:
            named = list(_named(database))
        manifest = Manifest(
            created_at=datetime.now(UTC),
            database_url=shown(settings.database_url),
            database_sha256=sha256_of(folder / DATABASE) if (folder / DATABASE).exists() else None,
            files=[look_at(settings.data_dir, path, sha256) for path, sha256 in named],
        )
        for file in manifest.files if with_files else []:
            if file.state is FileState.PRESENT:
                _put(settings.data_dir / file.path, folder / file.path)
        temporary = folder / f"{MANIFEST}.tmp"
        temporary.write_text(manifest.model_dump_json(indent=1))
        _finish(temporary, folder / MANIFEST)
    return manifest


def restore(folder: Path, data_dir: Path, database: Path | None) -> Manifest:
    """Put a backup back; the manifest of what is in place afterwards.

    Every hash is checked: a damaged file stays where it is and is told in the manifest; files that a backup
    without files left in the data folder count. database: file to make, None where PostgreSQL keeps the
    data. The database comes last, so that what was interrupted can be done again. Raises InputError when
    the backup has no manifest or a damaged database, or cannot be put there, and Conflict when a database,
    or another file in the place of one of the backup, is there already; nothing is changed then.
    """
    manifest = read_manifest(folder)
    saved = folder / DATABASE if manifest.database_sha256 else None
    if saved and (not saved.is_file() or sha256_of(saved) != manifest.database_sha256):
        raise InputError(f"{saved} is missing or damaged, by its sha256 in the manifest; use another backup")
    if saved and database is None:
        raise InputError(
            "this backup holds a SQLite database, but database_url names PostgreSQL; give --into DATA_DIR"
        )
    in_place = [look_at(data_dir, file.path, file.sha256) for file in manifest.files]
    _check_nothing_is_in_the_way(in_place, data_dir, database if saved else None)
    with _said(f"the backup {folder} cannot be put into {data_dir}"):
        files = [
            there if there.state is FileState.PRESENT else _put_back(folder, data_dir, file)
            for file, there in zip(manifest.files, in_place, strict=True)
        ]
        if saved and database:
            _put_database(saved, database, data_dir)
    return manifest.model_copy(update={"files": files})


# The database.


@contextmanager
def _snapshot(url: str, folder: Path) -> Iterator[Connection]:
    """A connection to the state of one moment: of SQLite, the copy in the folder."""
    live = sqlite_file(url)
    if live is None:
        engine = open_engine(url)
    else:
        _copy_database(live, folder / DATABASE)
        engine = create_engine(URL.create("sqlite", database=str(folder / DATABASE)))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _copy_database(live: Path, copy: Path) -> None:
    if not live.is_file():
        raise InputError(f"there is no database {live}; give the settings file of the installation")
    temporary = copy.with_name(f"{copy.name}.tmp")
    try:
        with (
            closing(sqlite3.connect(live, timeout=BUSY_TIMEOUT_MS / 1000)) as source,
            closing(sqlite3.connect(temporary)) as target,
        ):
            source.backup(target)
            # One file, without a log beside it that could be left behind.
            target.execute("PRAGMA journal_mode=DELETE")
            found = target.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"the database {live} cannot be copied: {error}; make room for the copy, or restore an older "
            "backup where the database is damaged"
        ) from error
    if found != "ok":
        raise InputError(f"the database {live} is damaged: {found}; restore an older backup")
    _finish(temporary, copy)


def _named(database: Connection) -> Iterator[tuple[str, str]]:
    """(path in the data folder, sha256) of every file that the database names.

    The tables are looked at as they are: a backup before an upgrade must not upgrade.
    """
    if not inspect(database).has_table("renders"):
        raise InputError("the database has no tables of autombw; give the settings file of the installation")
    renders = Table("renders", MetaData(), autoload_with=database)
    hashes = select(renders.c.sha256).distinct().order_by(renders.c.sha256)
    if "state" in renders.c:
        hashes = hashes.where(renders.c.state != RenderState.COLLECTED.value)
    for (sha256,) in database.execute(hashes):
        yield path_of(Path("renders"), sha256).as_posix(), sha256
    checkpoints = Table("checkpoints", MetaData(), autoload_with=database)
    made = select(checkpoints.c.path, checkpoints.c.sha256).order_by(checkpoints.c.id)
    if "collected_at" in checkpoints.c:
        made = made.where(checkpoints.c.collected_at.is_(None))
    for path, sha256 in database.execute(made):
        yield f"outputs/{Path(path).name}", sha256


def _put_database(saved: Path, database: Path, data_dir: Path) -> None:
    database.parent.mkdir(parents=True, exist_ok=True)
    temporary = database.with_name(f"{database.name}.tmp")
    shutil.copyfile(saved, temporary)
    with closing(sqlite3.connect(temporary)) as connection, connection:
        # The rows say where the outputs lay before.
        for row, path in connection.execute("SELECT id, path FROM checkpoints").fetchall():
            now = str(data_dir / "outputs" / Path(path).name)
            connection.execute("UPDATE checkpoints SET path = ? WHERE id = ?", (now, row))
    _finish(temporary, database)


# Files.


def _put_back(folder: Path, data_dir: Path, file: NamedFile) -> NamedFile:
    saved = look_at(folder, file.path, file.sha256)
    if saved.state is FileState.PRESENT:
        _put(folder / file.path, data_dir / file.path)
    return saved if file.state is FileState.PRESENT else file


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.tmp")
    # It may be a link that was left behind: copying into it would write to the file that it links to.
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    _finish(temporary, target)


def _finish(temporary: Path, target: Path) -> None:
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(target)


# Refusals.


def _make_empty(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty; give a folder that does not exist yet")


def _check_nothing_is_in_the_way(in_place: list[NamedFile], data_dir: Path, database: Path | None) -> None:
    if database is not None:
        for path in (database, database.with_name(f"{database.name}-wal")):
            if path.exists():
                raise Conflict(
                    f"{path} is there already; restore with --into another folder, or stop autombw and move "
                    "that file away"
                )
    others = [file.path for file in in_place if file.state is FileState.DAMAGED]
    if others:
        raise Conflict(
            f"{data_dir} has other files in the place of {', '.join(others[:5])} ({len(others)} in all); "
            "move them away, or restore with --into another folder"
        )


@contextmanager
def _said(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{what}: {error}; make room or permit it, then begin again") from error
