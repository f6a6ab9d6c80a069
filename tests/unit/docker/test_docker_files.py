"""The Dockerfile and the compose files say what autombw, Docker and the docs understand."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from compose_spec import PyOptions
from typer.testing import CliRunner

from service.cli import app
from service.settings import Settings
from tests.containers import COMPOSE_FILES, DOCKER, DOCKERFILE, compose, filled_in, image, variables_of
from tests.tiny_models import REPO

DOCS = REPO / "docs" / "docker.md"
PREFIX = "AUTOMBW_"
every_file = pytest.mark.parametrize("file", COMPOSE_FILES, ids=lambda file: file.name)


def commands() -> list[list[str]]:
    """Every command line of autombw that the files of docker/ name."""
    services = [service for file in COMPOSE_FILES for service in compose(file)["services"].values()]
    own = [service["command"] for service in services if "command" in service]
    return [image().command, image().health[1:], *own]


def names_of_settings() -> set[str]:
    """The variables that settings are read from."""
    return {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    said = subprocess.run([hadolint, DOCKERFILE], text=True, capture_output=True, check=False)
    assert (said.returncode, said.stdout) == (0, "")


@every_file
def test_a_compose_file_is_one_by_the_specification(file: Path) -> None:
    PyOptions(apply_merge=True).from_yaml(filled_in(file))


@pytest.mark.parametrize("more", [[], ["cuda"]], ids=["cpu", "cuda"])
@pytest.mark.parametrize("first", ["compose.yaml", "compose.postgres.yaml"])
def test_docker_itself_reads_the_compose_files(first: str, more: list[str], tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if (
        docker is None
        or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("the client of Docker is not here, or has no `compose`")
    files = [first, *(first.replace(".yaml", f".{name}.yaml") for name in more)]
    chosen = [argument for name in files for argument in ("--file", str(DOCKER / name))]
    read = subprocess.run(
        [docker, "compose", *chosen, "config", "--quiet"], text=True, capture_output=True, check=False
    )
    assert read.returncode == 0, read.stderr


def test_a_file_for_cuda_changes_services_that_are_there() -> None:
    for name in ("compose", "compose.postgres"):
        base = compose(DOCKER / f"{name}.yaml")["services"]
        over: dict[str, Any] = compose(DOCKER / f"{name}.cuda.yaml")["services"]
        assert set(over) <= set(base)
        for service in over.values():
            assert (service["image"], service["build"]["args"]["TORCH"]) == ("autombw:cuda", "cuda")
        assert any("deploy" in service for service in over.values())


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_a_command_is_one_that_autombw_has(command: list[str]) -> None:
    ended = CliRunner().invoke(app, [*command, "--help"])
    assert ended.exit_code == 0, ended.output


def test_variables_of_autombw_are_settings() -> None:
    said = set(image().environment)
    for file in COMPOSE_FILES:
        for service in compose(file)["services"].values():
            said |= set(service.get("environment", {}))
    assert {name for name in said if name.startswith(PREFIX)} <= names_of_settings()


def test_a_container_serves_everybody_and_keeps_its_data_in_the_volume() -> None:
    settings = image().environment
    assert (settings["AUTOMBW_HOST"], settings["AUTOMBW_DATA_DIR"]) == ("0.0.0.0", "/data")
    for name in Settings.model_fields:
        if name.endswith("_dir"):
            assert settings[f"{PREFIX}{name.upper()}"].startswith("/"), name


def test_what_is_copied_is_let_through_to_the_builder() -> None:
    lines = (REPO / ".dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert set(image().copied) == let_through


@pytest.mark.parametrize(("torch", "complaint"), [("cpu", "needs TORCH_INDEX"), ("rocm", "give cpu or cuda")])
def test_no_other_torch_than_was_asked_for_is_installed(torch: str, complaint: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        ["sh", DOCKER / "install_torch.sh"],
        env={"PATH": "/usr/bin:/bin", "TORCH": torch},
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 2
    assert complaint in ended.stderr


@every_file
def test_the_variables_of_a_compose_file_are_documented(file: Path) -> None:
    first_cells = re.findall(r"^\|([^|]*)\|", DOCS.read_text(), re.MULTILINE)
    documented = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    assert variables_of(file) <= documented


def test_the_table_of_settings_is_that_of_the_settings() -> None:
    table = settings_table()
    assert table in DOCS.read_text(), f"docs/docker.md should have this table:\n{table}"


def settings_table() -> str:
    """Every setting as the docs list it."""
    rows = ["| variable | default | what |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in ("", None, ()) else f"`{str(field.default).lower()}`"
        description = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {description} |")
    return "\n".join(rows) + "\n"
