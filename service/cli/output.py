"""How the commands print: JSON for machines, tables for people, errors on stderr."""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

console = Console()
errors = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong on stderr and leave: 2 for wrong input, 1 for all else."""
    typer.echo(f"autombw: {message}", err=True)
    raise typer.Exit(code)
