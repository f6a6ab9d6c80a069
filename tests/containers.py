"""The files of docker/ read as data, and what they say run as plain processes: nothing here needs Docker."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.tiny_models import REPO

DOCKER = REPO / "docker"
DOCKERFILE = DOCKER / "Dockerfile"
COMPOSE_FILES = sorted(DOCKER.glob("compose*.yaml"))
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


@dataclass(frozen=True)
class Image:
    """What a Dockerfile says of its image."""

    copied: list[str]
    environment: dict[str, str]
    entrypoint: list[str]
    command: list[str]
    health: list[str]


def image() -> Image:
    """The image of docker/Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    said = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    environment: dict[str, str] = {}
    copied: list[str] = []
    for instruction, value in said:
        if instruction == "ENV":
            environment |= dict(pair.split("=", 1) for pair in value.split())
        elif instruction == "COPY":
            copied += value.split()[:-1]
    last = dict(said)
    health = json.loads(last["HEALTHCHECK"].partition("CMD ")[2])
    return Image(copied, environment, json.loads(last["ENTRYPOINT"]), json.loads(last["CMD"]), health)


def compose(file: Path) -> dict[str, Any]:
    """A compose file as data, its variables at their defaults."""
    read: dict[str, Any] = yaml.safe_load(filled_in(file))
    return read


def filled_in(file: Path) -> str:
    """The text of a compose file, its variables at their defaults."""
    return _VARIABLE.sub(lambda found: found[2] or "", file.read_text())


def variables_of(file: Path) -> set[str]:
    """The names of the variables that a compose file asks for."""
    return {name for name, _ in _VARIABLE.findall(file.read_text())}


def copy_sources(folder: Path, sources: list[str]) -> None:
    """Copy files and folders of the repository as COPY does."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        if (REPO / source).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPO / source, folder / source, ignore=ignored)
        else:
            shutil.copy(REPO / source, folder)


def build_wheel(folder: Path) -> Path:
    """Build the wheel of the sources in a folder, with the setuptools that are here."""
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "dist"), str(folder))
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> None:
    """Install a wheel alone into a folder, its commands into bin."""
    _pip("install", "--no-deps", "--target", str(folder), str(wheel))


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    ended = subprocess.run(command, cwd="/", text=True, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr


class Container:
    """A service of a compose file, as a process that sees the installed package and a folder for a root."""

    def __init__(self, installed: Path, root: Path, service: Mapping[str, Any], **changes: str) -> None:
        of_image = image()
        self._command = service.get("command", of_image.command)
        self._health = of_image.health
        said = of_image.environment | service.get("environment", {})
        self._environment = {
            "PATH": f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(installed),
            "OMP_NUM_THREADS": "1",
            "PYTHONFAULTHANDLER": "1",
            # A variable that is filled in with nothing is read as null here, and is empty for Docker.
            **{name: _below(root, value or "") for name, value in said.items()},
            **changes,
        }
        self._root = root
        assert of_image.entrypoint == ["tini", "--", "autombw"], "the commands here stand in for it"

    def start(self) -> subprocess.Popen[str]:
        """Start the service's own command."""
        log = (self._root / f"{self._command[0]}.log").open("a")
        with log:
            return subprocess.Popen(
                ["autombw", *self._command],
                env=self._environment,
                cwd=self._root / "data",
                text=True,
                stdout=log,
                stderr=log,
            )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`docker compose run`: another command of autombw in such a container."""
        return self._run("autombw", *arguments)

    def is_healthy(self) -> bool:
        """What the image's health check says."""
        return self._run(*self._health).returncode == 0

    def variable(self, name: str) -> str:
        """A variable of the container; empty where it is not set."""
        return self._environment.get(name, "")

    def says(self) -> str:
        """All that the service has logged."""
        return (self._root / f"{self._command[0]}.log").read_text()

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self._environment,
            cwd=self._root / "data",
            text=True,
            capture_output=True,
            check=False,
        )


def _below(root: Path, value: str) -> str:
    return str(root / value[1:]) if value.startswith("/") else value
