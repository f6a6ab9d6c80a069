"""`autombw bracket`: the order of merges, shown or checked before a job is submitted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app

# An explicit width: a terminal that is too narrow folds the cells.
RUNNER = CliRunner(env={"COLUMNS": "100"})
ROWS = [
    {"o": "n1", "a": "cats", "b": "dogs"},
    {"o": "n2", "a": "birds", "b": "fish"},
    {"o": "n3", "a": "bees", "b": "best(n1,n2)"},
    {"o": "n4", "a": "n2", "b": "n3"},
]


def autombw(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli", "bracket", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def test_the_rows_stand_in_a_table_with_their_levels() -> None:
    shown = RUNNER.invoke(app, ["bracket", "cats", "dogs", "[birds]", "--first", "n1"])
    assert [line.split() for line in shown.stdout.splitlines()] == [
        ["O", "A", "B", "level"],
        ["n1", "cats", "dogs", "1"],
        ["n2", "[birds]", "n1", "2"],
    ]


def test_json_is_the_rows_and_a_table_file_takes_them(tmp_path: Path) -> None:
    shown = RUNNER.invoke(
        app, ["bracket", "cats", "dogs", "birds", "fish", "bees", "--first", "n1", "--json"]
    )
    assert json.loads(shown.stdout) == ROWS
    (tmp_path / "table.json").write_text(shown.stdout)
    again = RUNNER.invoke(app, ["bracket", "--table", str(tmp_path / "table.json"), "--json"])
    assert json.loads(again.stdout) == ROWS


def test_sequential() -> None:
    shown = RUNNER.invoke(app, ["bracket", "a", "b", "c", "--kind", "sequential", "--json"])
    assert json.loads(shown.stdout) == [{"o": "01b", "a": "a", "b": "b"}, {"o": "02b", "a": "01b", "b": "c"}]


def test_a_yaml_table_is_checked_against_the_leaves_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "table.yaml"
    file.write_text("- {o: n1, a: cats, b: dogs}\n- {o: n2, a: n1, b: birds}\n")
    assert RUNNER.invoke(app, ["bracket", "dogs", "cats", "birds", "--table", str(file)]).exit_code == 0
    ended = autombw(tmp_path, "dogs", "cats", "fish", "--table", "table.yaml")
    assert ended.returncode == 2
    assert ended.stderr.startswith("autombw: row n2 uses birds, which is neither a leaf"), ended.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "needs two leaves or more"),
        (("a", "a"), "leaf a is named 2 times"),
        (("a", "b", "--first", "last"), "no number to count up from"),
        (("a", "b", "--kind", "random"), "'random' is not one of"),
        (("--table", "none.yaml"), "none.yaml: no such file"),
        (("--table", "table.yaml", "--first", "n1"), "leave out --kind and --first"),
        (("--table", "broken.yaml"), "broken.yaml: cannot be read as YAML"),
        (("--table", "mapping.yaml"), "mapping.yaml: a bracket is a list of rows {o: 01b, a: one, b: two}"),
        (("--table", "."), ". is a directory"),
    ],
)
def test_wrong_input_ends_with_code_2(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("- {o: n1")
    (tmp_path / "mapping.yaml").write_text("{o: n1, a: cats, b: dogs}")
    ended = autombw(tmp_path, *arguments)
    assert ended.returncode == 2, ended.stdout
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_it_imports_neither_torch_nor_numpy() -> None:
    script = "import sys, service.cli.bracket; print({'torch', 'numpy', 'diffusers'} & sys.modules.keys())"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"
