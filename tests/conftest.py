"""Fixtures that tests of several packages share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["tests.postgres"]

# Small models are slower on many threads than on one, and no test may ask a hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# rich keeps for good the width that it finds when it is imported, and pytest-xdist sets one.
os.environ.pop("COLUMNS", None)


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings of whoever runs it."""
    for name in [name for name in os.environ if name.startswith("AUTOMBW_")]:
        monkeypatch.delenv(name)
    # What Starlette's test client calls every service.
    monkeypatch.setenv("AUTOMBW_ALLOWED_HOSTS", "testserver")


@pytest.fixture(autouse=True)
def _own_log_levels() -> Iterator[None]:
    """No test sees the log levels that a command set in another one."""
    loggers = [logging.getLogger(name) for name in ("service", "optimizer", "scoring")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with `left` and `right`; read only."""
    from tests.tiny_models import write_models

    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_scorers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scorers folder with the CLIP `reward`; read only."""
    from tests.tiny_models import write_reward

    folder = tmp_path_factory.mktemp("scorers")
    write_reward(folder / "reward")
    return folder


@pytest.fixture
def installation(tmp_path: Path, tiny_models: Path, tiny_scorers: Path) -> Path:
    """A settings file of an installation of its own, over the tiny models."""
    file = tmp_path / "autombw.toml"
    file.write_text(
        f'models_dir = "{tiny_models}"\nscorers_dir = "{tiny_scorers}"\n'
        f'data_dir = "{tmp_path / "data"}"\ndevice = "cpu"\nlease_seconds = 5\n'
    )
    return file
