"""The bracket of a job, shown before anything is merged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from optimizer.bracket import Bracket, balanced, explicit, levels, sequential, table
from scoring.errors import InputError
from service.cli.output import AsJson, console, print_json
from service.jobfile import read_rows

_LAYOUTS = {"balanced": balanced, "sequential": sequential}


def bracket(
    leaves: Annotated[list[str] | None, typer.Argument(metavar="LEAF", help="Models to merge.")] = None,
    kind: Annotated[
        Literal["balanced", "sequential"] | None,
        typer.Option(help="Rounds of pairs (the default), or one leaf after the other."),
    ] = None,
    first: Annotated[str | None, typer.Option(help="Name of the first node; else 01b.")] = None,
    table_file: Annotated[
        Path | None,
        typer.Option("--table", help="Check this table instead: rows of o, a and b, YAML or JSON."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which models are merged in which order: O = A + B, row by row."""
    laid = _laid(leaves, kind, first) if table_file is None else _read(table_file, leaves, kind, first)
    if as_json:
        print_json(table(laid))
    else:
        console.print(_shown(laid))


def _laid(leaves: list[str] | None, kind: str | None, first: str | None) -> Bracket:
    return _LAYOUTS[kind or "balanced"](leaves or [], first or "01b")


def _read(file: Path, leaves: list[str] | None, kind: str | None, first: str | None) -> Bracket:
    if kind or first:
        raise InputError("--table holds the whole bracket; leave out --kind and --first")
    return explicit(read_rows(file), leaves)


def _shown(laid: Bracket) -> Table:
    level = levels(laid)
    shown = Table("O", "A", "B", "level", box=None)
    for row in table(laid):
        shown.add_row(escape(row["o"]), escape(row["a"]), escape(row["b"]), str(level[row["o"]]))
    return shown
