"""Settings come from overrides, environment, file and defaults, in this order."""

from __future__ import annotations

from pathlib import Path

import pytest

from scoring.errors import InputError
from service.settings import load_settings


def test_nothing_needs_to_be_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.models_dir == tmp_path / "models"
    assert settings.database_url == f"sqlite:///{tmp_path / 'autombw-data' / 'autombw.sqlite3'}"
    assert (settings.host, settings.port) == ("127.0.0.1", 8188)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.toml", 'port = 9000\nmax_batch = 4\nmodels_dir = "m"'),
        ("s.yaml", "port: 9000\nmax_batch: 4\nmodels_dir: m"),
    ],
)
def test_the_environment_is_stronger_than_the_file(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / name
    file.write_text(text)
    monkeypatch.setenv("AUTOMBW_PORT", "9001")
    settings = load_settings(file)
    assert (settings.port, settings.max_batch) == (9001, 4)
    assert settings.models_dir == tmp_path / "m", "folders count from the file they stand in"
    assert load_settings(file, port=9002).port == 9002


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("ports: 1", "ports: Extra inputs"),
        ("port: 99999", r"port: .*65535 \(got 99999\)"),
        ("[1, 2]", "must hold names and values"),
        ("port: [", "cannot be read"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=rf"bad\.yaml.*{complaint}"):
        load_settings(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml does not exist"):
        load_settings(tmp_path / "none.toml")


def test_batches_are_larger_on_cuda_unless_told(tmp_path: Path) -> None:
    found = [
        load_settings(data_dir=tmp_path, device=device, max_batch=given).resolved_max_batch()
        for given in (0, 48)
        for device in ("cpu", "mps", "cuda:1")
    ]
    assert found == [16, 16, 64, 48, 48, 48]


def test_a_password_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("a@b:c/%\n")
    settings = load_settings(database_url="postgresql://autombw@db:5432/autombw", database_password_file=file)
    assert settings.database_url == "postgresql://autombw:a%40b%3Ac%2F%25@db:5432/autombw"


@pytest.mark.parametrize("url", ["", "postgresql://autombw:secret@db/autombw", "postgresql://db/autombw"])
def test_a_password_that_has_no_place_is_refused(url: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("right")
    with pytest.raises(InputError, match="a user and no password") as refused:
        load_settings(database_url=url, database_password_file=file)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("text", "complaint"), [(None, "cannot be read"), ("\n", "is empty")])
def test_a_password_file_that_has_none_is_named(text: str | None, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=f"{file}.* {complaint}"):
        load_settings(database_url="postgresql://autombw@db/autombw", database_password_file=file)
