"""docs/scorers.md: its table is that of the cards, its example runs."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

from scoring.scorers.base import ScorerSpec
from scoring.scorers.cards import OUR_CARDS, card_of
from scoring.scorers.registry import check_options, create_scorer

TEXT = (Path(__file__).parents[3] / "docs/scorers.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found
    return found[1]


def test_every_scorer_stands_in_a_table_with_its_licence_and_whether_it_reads() -> None:
    rows = {
        cells[1].strip(" `"): cells for cells in (line.split("|") for line in TEXT.splitlines()) if cells[1:]
    }
    for card in OUR_CARDS.values():
        cells = rows[card.name]
        if card.guard:
            continue
        assert cells[4].strip() == ("yes" if card.prompts else "no"), card.name
        assert card.licence.split(" (")[0].split(",")[0].split(";")[0] in cells[5], card.name


def test_the_commands_are_those_of_the_cards() -> None:
    known = {command.format(folder=f"scorers/{c.name}") for c in OUR_CARDS.values() for command in c.commands}
    told = [line for line in block("sh").splitlines() if line and not line.startswith("#")]
    assert len(told) > 8
    for command in told:
        assert command in known, command


def test_the_job_names_what_there_is() -> None:
    job = yaml.safe_load(block("yaml"))
    for entry in [*job["scorers"], *job["watch"]]:
        check_options(ScorerSpec.model_validate(entry))


def test_the_example_package_is_a_scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "warmth.py").write_text(block("python"))
    project = tomllib.loads(block("toml"))["project"]
    info = tmp_path / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: warmth\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "\n".join(
            f"[{group}]\n" + "\n".join(f"{name} = {value}" for name, value in entries.items())
            for group, entries in project["entry-points"].items()
        )
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "warmth", raising=False)
    images = torch.tensor([[1.0, 0.5, 0.0], [0.2, 0.5, 0.6]]).view(2, 3, 1, 1).expand(2, 3, 4, 4)
    scorer = create_scorer(ScorerSpec(scorer="warmth"), "cpu")
    assert scorer.score(images, ["", ""]).tolist() == pytest.approx([1.0, -0.4])
    card = card_of("warmth")
    assert card is not None
    assert card.what == "how much redder than blue the picture is"
