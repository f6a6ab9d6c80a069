"""A backup is one moment of a database that is being written to, and every file that the moment names."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from scoring.errors import InputError
from service.backup import DATABASE, back_up, restore
from service.cli import app
from service.db.records import Lease, NewCheckpoint, NewRender
from service.db.states import TrialKind
from service.db.store import Store
from service.errors import Conflict
from service.images import image_path, store_images
from service.manifest import MANIFEST, FileState, sha256_of
from service.settings import Settings
from tests.contract.store_contract import leased, new_job, queued_and_leased
from tests.postgres import Postgres


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def node_id(settings: Settings, store: Store) -> int:
    """A finished node of three trials with two images each and an output."""
    lease = queued_and_leased(store)
    for number in range(3):
        run_trial(settings, store, lease, number)
    finish(settings, store, lease)
    return lease.node_id


def run_trial(settings: Settings, store: Store, lease: Lease, number: int) -> None:
    """A trial as the recorder stores it: images first, then their rows."""
    trial = store.open_trial(lease, TrialKind.SEARCH, number, {"IN00": 0.1 * number})
    images = [Image.new("RGB", (8, 8), (number % 256, number // 256, probe)) for probe in range(2)]
    hashes = store_images(settings.renders_dir, images)
    renders = [NewRender(i, sha256, 0.1, {"clip": 0.5}) for i, sha256 in enumerate(hashes)]
    store.add_renders(lease, trial.id, renders)
    store.finish_trial(lease, trial.id, 0.5, 1.0, {})


def finish(settings: Settings, store: Store, lease: Lease) -> None:
    out = settings.outputs_dir / "out.safetensors"
    out.parent.mkdir(exist_ok=True)
    out.write_bytes(b"weights" * 1000)
    store.finish_node(lease, 0.5, NewCheckpoint("out", out, sha256_of(out), 7000, {"x": 1}, {"y": 2}))


def rows(database: Path) -> dict[str, list[tuple[object, ...]]]:
    """Everything in a SQLite database, table by table."""
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        return {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}


def images_of(settings: Settings) -> list[Path]:
    return sorted(settings.renders_dir.glob("*/*.png"))


def test_a_backup_comes_back_in_another_folder(
    settings: Settings, store: Store, node_id: int, tmp_path: Path
) -> None:
    made = back_up(settings, tmp_path / "backup")
    assert (len(made.files), made.not_present()) == (7, [])
    other = Settings(data_dir=tmp_path / "other")
    put = restore(tmp_path / "backup", other.data_dir, other.data_dir / DATABASE)
    assert put.not_present() == []

    restored = Store(other.database_url)
    node = store.node(node_id)
    assert restored.jobs() == store.jobs()
    assert restored.node(node_id) == node
    assert restored.trials(node_id) == store.trials(node_id)
    assert restored.events(node.job_id) == store.events(node.job_id)
    for trial in restored.trials(node_id):
        assert restored.renders(trial.id) == store.renders(trial.id)
        for render in restored.renders(trial.id):
            assert sha256_of(image_path(other.renders_dir, render.sha256)) == render.sha256
    before, after = store.checkpoint(node_id), restored.checkpoint(node_id)
    assert before is not None
    assert after is not None
    assert after == before.model_copy(update={"path": str(other.outputs_dir / "out.safetensors")})
    assert sha256_of(Path(after.path)) == before.sha256
    restored.close()


def test_a_restored_job_goes_on(settings: Settings, store: Store, tmp_path: Path) -> None:
    lease = queued_and_leased(store, seconds=0.01)
    run_trial(settings, store, lease, 0)
    back_up(settings, tmp_path / "backup")
    other = Settings(data_dir=tmp_path / "other")
    restore(tmp_path / "backup", other.data_dir, other.data_dir / DATABASE)
    restored = Store(other.database_url)
    again = leased(restored, "host:2:w")
    assert again.number == 2
    run_trial(other, restored, again, 1)
    assert len(restored.trials(again.node_id)) == 2
    restored.close()


def test_a_backup_is_one_moment_of_a_database_that_is_written_to(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    lease = queued_and_leased(store)
    stop, written = threading.Event(), threading.Semaphore(0)

    def write() -> None:
        number = 0
        while not stop.is_set():
            run_trial(settings, store, lease, number)
            written.release()
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            for _ in range(5):
                assert written.acquire(timeout=60)
            made = back_up(settings, tmp_path / f"backup{number}")
            assert made.not_present() == []
            found = rows(tmp_path / f"backup{number}" / DATABASE)
            assert len(found["trials"]) >= 5 * (number + 1)
            assert len(found["scores"]) == len(found["renders"]) == len(made.files)
            for file in made.files:
                assert sha256_of(tmp_path / f"backup{number}" / file.path) == file.sha256
    finally:
        stop.set()
        writer.join()


def test_files_are_linked_and_outlive_what_replaces_them(
    settings: Settings, node_id: int, tmp_path: Path
) -> None:
    back_up(settings, tmp_path / "backup")
    out, saved = settings.outputs_dir / "out.safetensors", tmp_path / "backup/outputs/out.safetensors"
    assert saved.stat().st_ino == out.stat().st_ino
    new = out.with_name("new.tmp")
    new.write_bytes(b"extended")
    new.replace(out)
    assert saved.read_bytes() == b"weights" * 1000
    assert not list((tmp_path / "backup").rglob("*.tmp"))


def test_files_are_copied_where_they_cannot_be_linked(
    settings: Settings, node_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another_disk(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", another_disk)
    back_up(settings, tmp_path / "backup")
    out, saved = settings.outputs_dir / "out.safetensors", tmp_path / "backup/outputs/out.safetensors"
    assert saved.stat().st_ino != out.stat().st_ino
    assert saved.read_bytes() == out.read_bytes()


def test_what_is_missing_or_damaged_before_a_backup_is_named(
    settings: Settings, node_id: int, tmp_path: Path
) -> None:
    gone, broken, *_ = images_of(settings)
    gone.unlink()
    broken.write_bytes(b"scratched")
    made = back_up(settings, tmp_path / "backup")
    states = {file.path: file.state for file in made.not_present()}
    assert states == {
        str(gone.relative_to(settings.data_dir)): FileState.MISSING,
        str(broken.relative_to(settings.data_dir)): FileState.DAMAGED,
    }
    put = restore(tmp_path / "backup", tmp_path / "other", tmp_path / "other" / DATABASE)
    assert {file.path: file.state for file in put.not_present()} == states


def test_what_is_damaged_in_a_backup_is_named_and_left_out(
    settings: Settings, node_id: int, tmp_path: Path
) -> None:
    back_up(settings, tmp_path / "backup")
    broken, gone, *_ = sorted((tmp_path / "backup/renders").glob("*/*.png"))
    gone.unlink()
    content = broken.read_bytes()
    broken.unlink()
    broken.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    put = restore(tmp_path / "backup", tmp_path / "other", tmp_path / "other" / DATABASE)
    lost = {Path(file.path).name: file.state for file in put.not_present()}
    assert lost == {broken.name: FileState.DAMAGED, gone.name: FileState.MISSING}
    assert len(list((tmp_path / "other/renders").glob("*/*.png"))) == 4


def test_collected_renders_are_not_missed(
    settings: Settings, store: Store, node_id: int, tmp_path: Path
) -> None:
    image = images_of(settings)[0]
    with closing(sqlite3.connect(settings.data_dir / DATABASE)) as connection, connection:
        connection.execute("UPDATE renders SET state = 'collected' WHERE sha256 = ?", (image.stem,))
    image.unlink()
    made = back_up(settings, tmp_path / "backup")
    assert (len(made.files), made.not_present()) == (6, [])


def test_without_files_those_that_are_in_place_count(
    settings: Settings, node_id: int, tmp_path: Path
) -> None:
    back_up(settings, tmp_path / "backup", with_files=False)
    assert sorted(path.name for path in (tmp_path / "backup").iterdir()) == [DATABASE, MANIFEST]
    store = rows(settings.data_dir / DATABASE)
    for left in settings.data_dir.glob(f"{DATABASE}*"):
        left.unlink()
    put = restore(tmp_path / "backup", settings.data_dir, settings.data_dir / DATABASE)
    assert put.not_present() == []
    assert rows(settings.data_dir / DATABASE) == store
    elsewhere = restore(tmp_path / "backup", tmp_path / "other", tmp_path / "other" / DATABASE)
    assert len(elsewhere.not_present()) == 7


def test_a_database_is_never_overwritten(settings: Settings, node_id: int, tmp_path: Path) -> None:
    back_up(settings, tmp_path / "backup")
    database = settings.data_dir / DATABASE
    with pytest.raises(Conflict, match=r"autombw.sqlite3 is there already; restore with --into"):
        restore(tmp_path / "backup", settings.data_dir, database)
    with pytest.raises(Conflict, match=r"not empty; give a folder"):
        back_up(settings, tmp_path / "backup")


def test_another_file_in_the_place_of_an_output_is_left_alone(
    settings: Settings, node_id: int, tmp_path: Path
) -> None:
    back_up(settings, tmp_path / "backup")
    precious = tmp_path / "other/outputs/out.safetensors"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"precious")
    with pytest.raises(Conflict, match=r"other files in the place of outputs/out.safetensors \(1 in all\)"):
        restore(tmp_path / "backup", tmp_path / "other", tmp_path / "other" / DATABASE)
    assert [path.name for path in (tmp_path / "other").rglob("*") if path.is_file()] == [precious.name]
    assert precious.read_bytes() == b"precious"


def test_what_is_no_backup_is_refused(settings: Settings, node_id: int, tmp_path: Path) -> None:
    backup, target = tmp_path / "backup", tmp_path / "other"
    with pytest.raises(InputError, match="no backup, or one that was not finished"):
        restore(backup, target, target / DATABASE)
    back_up(settings, backup)
    manifest = json.loads((backup / MANIFEST).read_text())
    for change, words in (
        ({"format": 2}, "damaged or of a newer autombw"),
        ({"files": [{**manifest["files"][0], "path": "renders/../../stolen.png"}]}, "damaged or of a newer"),
        ({"database_sha256": "0" * 64}, "autombw.sqlite3 is missing or damaged"),
    ):
        (backup / MANIFEST).write_text(json.dumps({**manifest, **change}))
        with pytest.raises(InputError, match=words):
            restore(backup, target, target / DATABASE)
    assert not target.exists()


def test_where_there_is_nothing_to_save_that_is_said(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "nothing")
    with pytest.raises(InputError, match=r"there is no database .*nothing.autombw.sqlite3"):
        back_up(settings, tmp_path / "backup")
    settings.data_dir.mkdir()
    sqlite3.connect(settings.data_dir / DATABASE).close()
    with pytest.raises(InputError, match="no tables of autombw"):
        back_up(settings, tmp_path / "backup")


def test_a_damaged_database_is_not_backed_up_as_a_good_one(
    settings: Settings, store: Store, node_id: int, tmp_path: Path
) -> None:
    store.close()
    database = settings.data_dir / DATABASE
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)
    with pytest.raises(InputError, match=r"is damaged|cannot be copied"):
        back_up(settings, tmp_path / "backup")
    assert not (tmp_path / "backup" / MANIFEST).exists()


def test_a_backup_does_not_upgrade(settings: Settings, store: Store, node_id: int, tmp_path: Path) -> None:
    with closing(sqlite3.connect(settings.data_dir / DATABASE)) as connection, connection:
        connection.execute("UPDATE autombw_version SET version_num = '0001'")
        connection.execute("ALTER TABLE renders DROP COLUMN state")
    made = back_up(settings, tmp_path / "backup")
    assert (len(made.files), made.not_present()) == (7, [])
    assert rows(tmp_path / "backup" / DATABASE)["autombw_version"] == [("0001",)]


def test_a_postgresql_installation_comes_back_by_its_dump_and_the_files(
    postgres: Postgres, tmp_path: Path
) -> None:
    data_dir, dump = tmp_path / "data", tmp_path / "autombw.dump"
    with postgres.empty_database() as url, postgres.empty_database() as new_url:
        settings, store = Settings(data_dir=data_dir, database_url=url), Store(url)
        lease = queued_and_leased(store)
        run_trial(settings, store, lease, 0)
        finish(settings, store, lease)
        subprocess.run(
            [postgres.programs / "pg_dump", "--format=custom", f"--file={dump}", plain(url)], check=True
        )
        made = back_up(settings, tmp_path / "backup")
        assert (len(made.files), made.not_present(), made.database_sha256) == (3, [], None)
        shutil.rmtree(data_dir)

        subprocess.run(
            [postgres.programs / "pg_restore", "--no-owner", f"--dbname={plain(new_url)}", dump], check=True
        )
        assert restore(tmp_path / "backup", data_dir, None).not_present() == []
        restored = Store(new_url)
        assert restored.jobs() == store.jobs()
        assert restored.trials(lease.node_id) == store.trials(lease.node_id)
        output = restored.checkpoint(lease.node_id)
        assert output is not None
        assert sha256_of(Path(output.path)) == output.sha256
        assert restored.create_job(new_job("next")).id, "numbers go on after those that were there"
        store.close()
        restored.close()


def plain(url: str) -> str:
    """A URL as PostgreSQL's own programs read it."""
    return url.replace("postgresql+psycopg", "postgresql")


def test_the_commands_save_restore_and_name_what_is_lost(
    settings: Settings, node_id: int, tmp_path: Path
) -> None:
    config = tmp_path / "autombw.toml"
    config.write_text(f'data_dir = "{settings.data_dir}"\n')
    options = ["--settings", str(config), "--json"]
    folder, other = str(tmp_path / "backup"), str(tmp_path / "other")
    saved = CliRunner().invoke(app, ["backup", folder, *options])
    assert saved.exit_code == 0, saved.output
    assert json.loads(saved.output)["files"] == 7
    image = next((tmp_path / "backup/renders").glob("*/*.png"))
    image.unlink()
    put = CliRunner().invoke(app, ["restore", folder, "--into", other, *options])
    assert put.exit_code == 1, put.output
    assert [(Path(f["path"]).name, f["state"]) for f in json.loads(put.output)["not_present"]] == [
        (image.name, "missing")
    ]
    shutil.rmtree(other)
    told = CliRunner().invoke(app, ["restore", folder, "--into", other, *options[:2]])
    assert (told.exit_code, f"missing: renders/{image.stem[:2]}/{image.name}" in told.output) == (1, True)
