"""The containers of the compose files as plain processes: from an installed wheel, with their variables."""

from __future__ import annotations

import signal
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from service.api.serving import LEAVE_SECONDS
from service.client import Client
from service.db.states import JobState, NodeState, TrialState
from service.db.store import Store
from tests.containers import DOCKER, Container, build_wheel, compose, copy_sources, image, install
from tests.integration.conftest import PATIENCE, free_port, healthy, wait_until
from tests.postgres import GUARDED, PASSWORD, Postgres
from tests.tiny_models import REPO, job

pytestmark = pytest.mark.slow
PACKAGES = ("service", "optimizer", "scoring", "migrations")
SOURCES = [source for source in image().copied if not source.startswith("docker/")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of what the image copies."""
    folder = tmp_path_factory.mktemp("build")
    copy_sources(folder, SOURCES)
    return build_wheel(folder)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where that wheel is installed."""
    folder = tmp_path_factory.mktemp("installed")
    install(wheel, folder)
    return folder


def test_a_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=REPO, text=True, capture_output=True, check=True
    ).stdout.split()
    assert tracked
    assert set(tracked) <= set(zipfile.ZipFile(wheel).namelist())


def test_the_layer_of_the_dependencies_needs_no_sources(tmp_path: Path) -> None:
    copy_sources(tmp_path, [source for source in SOURCES if source not in PACKAGES])
    names = zipfile.ZipFile(build_wheel(tmp_path)).namelist()
    assert [name for name in names if name.endswith(".py")] == []


class Box:
    """The services of a compose file on this machine, on a root folder of their own."""

    def __init__(self, file: str, root: Path, installed: Path, **changes: str) -> None:
        self.services = compose(DOCKER / file)["services"]
        self.services.pop("db", None)
        for name in ("data", "run/secrets"):
            (root / name).mkdir(parents=True)
        self.port = free_port()
        given = {"AUTOMBW_PORT": str(self.port), "AUTOMBW_DEVICE": "cpu"} | changes
        self.containers = [Container(installed, root, service, **given) for service in self.services.values()]
        self.processes: list[subprocess.Popen[str]] = []

    def up(self) -> None:
        """Start the services, each when the one before is well."""
        for container in self.containers:
            self.processes.append(container.start())
            wait_until(
                lambda: healthy(f"http://127.0.0.1:{self.port}") or self.processes[0].poll() is not None,
                "the service to be well",
            )
            assert self.containers[0].is_healthy(), self.containers[0].says()

    def down(self) -> None:
        """Stop them as Docker does: none may outstay its time, and each must end as it should."""
        for process, service in zip(self.processes[::-1], list(self.services.values())[::-1], strict=True):
            grace = float(service["stop_grace_period"].removesuffix("s"))
            assert grace > LEAVE_SECONDS
            process.send_signal(signal.SIGTERM)
            try:
                assert process.wait(grace) == 0
            except subprocess.TimeoutExpired:
                # It tells where each of its threads is.
                process.send_signal(signal.SIGABRT)
                process.wait()
                pytest.fail("\n".join(container.says() for container in self.containers))
        self.processes.clear()
        for container in self.containers:
            assert "Traceback" not in container.says(), container.says()

    def end(self) -> None:
        """Kill what still runs."""
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture(params=["compose.yaml", "compose.postgres.yaml"])
def box(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    installed: Path,
    tiny_models: Path,
    tiny_scorers: Path,
) -> Iterator[Box]:
    root = tmp_path / "root"
    changes: dict[str, Any] = {}
    with ExitStack() as stack:
        if "postgres" in request.param:
            server: Postgres = request.getfixturevalue("postgres")
            database = stack.enter_context(server.empty_database())
            with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as administration:
                administration.execute(f"ALTER DATABASE {administration.info.dbname} OWNER TO {GUARDED}")
                changes["AUTOMBW_DATABASE_URL"] = server.url(administration.info.dbname, GUARDED)
        made = Box(request.param, root, installed, **changes)
        (root / "models").symlink_to(tiny_models)
        (root / "scorers").symlink_to(tiny_scorers)
        (root / "run/secrets/database_password").write_text(f"{PASSWORD}\n")
        stack.callback(made.end)
        yield made


def test_the_first_token_lets_a_box_start_and_a_stopped_job_goes_on(box: Box, tmp_path: Path) -> None:
    first = box.containers[0]
    refused = first.run("serve", "--workers", "0")
    assert refused.returncode == 2
    assert "autombw token create --role admin" in refused.stderr
    token = first.run("token", "create", "--role", "admin", "--name", "anna").stdout.strip()

    box.up()
    store = Store(database_of(box, tmp_path))
    with Client(f"http://127.0.0.1:{box.port}", token) as autombw:
        submitted = autombw.submit(job(search={"sampler": "random", "trials": 20, "seed": 5}))
    (node,) = store.nodes(submitted.id)
    wait_until(lambda: store.render_totals(node.id)[0] >= 3, "the first renders", PATIENCE)
    box.down()

    (node,) = store.nodes(submitted.id)
    assert (node.state, node.lease_owner) == (NodeState.READY, None)
    kept = {trial.id: store.renders(trial.id) for trial in store.trials(node.id)}
    assert any(kept.values())

    box.up()
    wait_until(lambda: store.job(submitted.id).state is JobState.DONE, "the job to be done", PATIENCE)
    trials = {trial.id: trial for trial in store.trials(node.id)}
    for trial_id, renders in kept.items():
        assert trials[trial_id].state is TrialState.DONE
        assert store.renders(trial_id)[: len(renders)] == renders, "what was rendered is not rendered again"
    box.down()
    store.close()


def database_of(box: Box, tmp_path: Path) -> str:
    """The URL of the box's database, for who looks at it from outside."""
    url = box.containers[0].variable("AUTOMBW_DATABASE_URL")
    if url:
        return url.replace(f"//{GUARDED}@", f"//{GUARDED}:{PASSWORD}@")
    return f"sqlite:///{tmp_path}/root/data/autombw.sqlite3"
