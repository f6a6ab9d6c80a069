"""`autombw scorers`: who can judge images, what each needs, and whether it is there."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from scoring.scorers.cards import ScorerCard, card_of
from scoring.scorers.registry import check_scorer, scorer_names
from scoring.scorers.weights import commands, where
from service.cli.output import AsJson, console, print_json
from service.cli.setup import Config
from service.settings import load_settings

app = typer.Typer(no_args_is_help=True, help="Who can judge images, and what each needs.")


@app.command("list")
def list_scorers(config: Config = None, as_json: AsJson = False) -> None:
    """List the installed scorers: what each is, what its number means, and whether its weights are there."""
    folder = load_settings(config).scorers_dir
    found = [_described(name, folder) for name in scorer_names()]
    if as_json:
        print_json(found)
        return
    table = Table("scorer", "there", "what it is, its number, what it needs", box=None, padding=(0, 1, 1, 0))
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for row in found:
        table.add_row(escape(row["name"]), _there(row), escape("\n".join(_lines(row))))
    console.print(table)
    missing = [row for row in found if row["there"] is False and row["commands"]]
    if missing:
        console.print("What is not there comes with these commands:")
    for row in missing:
        _print_commands(row)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The scorer's name.")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Tell all that is known of one scorer."""
    row = _described(check_scorer(name), load_settings(config).scorers_dir)
    if as_json:
        print_json(row)
        return
    table = Table(box=None, show_header=False)
    lines = {
        "what it is": row["what"],
        "its number": row["number"],
        "reads the prompt": "yes" if row["prompts"] else "no",
        "differentiable": "yes" if row["differentiable"] else "no",
        "guard": "yes: watched, never optimised" if row["guard"] else "no",
        "fooled by": row["fooled_by"],
        "licence": row["licence"],
        "needs": ", ".join(row["needs"]) or "nothing",
        "there": row["place"] or ("nothing needed" if row["there"] else "no"),
        "hub id": row["hub"] or "none",
    }
    for title, text in lines.items():
        table.add_row(f"[dim]{title}", escape(text))
    console.print(table)
    if row["there"] is False:
        _print_commands(row)


def _described(name: str, folder: Path) -> dict[str, Any]:
    """All that is known of a scorer, as JSON data. there: unknown (none) without a card."""
    card = card_of(name)
    if card is None:
        unknown = asdict(ScorerCard(name, "no card: its package says nothing of it", "unknown", "unknown"))
        return {
            **_told(unknown),
            "licence": "unknown",
            "needs": ["unknown"],
            "there": None,
            "place": None,
            "card": False,
        }
    place = where(name, folder)
    return {
        **_told(asdict(card)),
        "needs": [" or ".join(names) for names in (card.head, *card.files) if names],
        "commands": commands(card, folder),
        "there": place is not None or not card.needs_weights,
        "place": place,
        "card": True,
    }


def _told(card: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in card.items() if key not in ("head", "files")}


def _lines(row: dict[str, Any]) -> list[str]:
    """What the list says of a scorer."""
    about = [row["what"], row["number"]]
    if row["prompts"]:
        about.append("reads the prompt")
    if row["guard"]:
        about.append("a guard: watched, never optimised")
    if row["needs"]:
        about.append(f"needs {', '.join(row['needs'])}")
    return [*about, row["place"]] if row["place"] else about


def _there(row: dict[str, Any]) -> str:
    return {None: "?", True: "[green]yes", False: "[red]no"}[row["there"]]


def _print_commands(row: dict[str, Any]) -> None:
    console.print(f"[dim]{row['name']}")
    for command in row["commands"]:
        # whole, so that it can be copied
        console.print(f"  {escape(command)}", soft_wrap=True, highlight=False)
