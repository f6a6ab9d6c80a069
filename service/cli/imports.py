"""The command that reads a search of auto-MBW-rt, to look at or to go on from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from service.cli.output import AsJson, console, print_json

if TYPE_CHECKING:
    from optimizer.formats.mbwrt_history import History
    from optimizer.formats.mbwrt_recipe import MbwrtRecipe, Proven

Order = Literal["recipe", "runtime", "nat"]


def import_history(
    history: Annotated[
        Path, typer.Argument(help="A history of auto-MBW-rt: 0..26,score,eval_times,iter_times.")
    ],
    recipe: Annotated[
        Path | None,
        typer.Option(help="Its recipe.txt: names the pair, and must agree with the history."),
    ] = None,
    order: Annotated[
        Order | None, typer.Option(help="Order of the recipe's weights line, if you know it; it must agree.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a history of auto-MBW-rt says, and how a job goes on from it."""
    from optimizer.formats.mbwrt_history import read_history
    from optimizer.formats.mbwrt_recipe import prove, read_mbwrt_recipe

    found = read_history(history)
    read = None if recipe is None else read_mbwrt_recipe(recipe)
    proven = None if read is None else prove(read, found, order)
    if as_json:
        print_json(_as_json(found, read, proven))
    else:
        _print(found, read, proven)


def _as_json(history: History, recipe: MbwrtRecipe | None, proven: Proven | None) -> dict[str, object]:
    return {
        "trials": [vars(trial) for trial in history.trials],
        "best": history.best.number,
        "evaluation_seconds": history.evaluation_seconds,
        "notes": history.notes(),
        "recipe": recipe
        and {
            "a": recipe.model_a,
            "b": recipe.model_b,
            "output": recipe.model_o,
            "position_id_fix": recipe.position_id_fix,
            "output_mode": recipe.output_mode,
            "seed": recipe.log and recipe.log.seed,
        },
        "order": proven and proven.by,
        "weights": proven and proven.weights,
    }


def _print(history: History, recipe: MbwrtRecipe | None, proven: Proven | None) -> None:
    best, distinct = history.best, history.distinct
    rows = {"trials": f"{len(history.trials)}, {len(distinct)} of them with weights of their own"}
    if history.evaluation_seconds is not None:
        rows["took"] = f"{history.evaluation_seconds / 3600:.1f} h"
    rows["best"] = f"{best.score:.6g} (line {best.line})"
    if recipe is not None and proven is not None:
        rows["pair"] = f"{recipe.model_a} + {recipe.model_b}"
        if recipe.model_o:
            rows["output"] = recipe.model_o
        rows["order"] = proven.by
    table = Table(box=None, show_header=False)
    for name, value in rows.items():
        table.add_row(f"[dim]{name}", escape(value))
    console.print(table, highlight=False)
    weights = Table("block", "alpha", "block", "alpha", "block", "alpha", box=None)
    items = [(block, f"{alpha:g}") for block, alpha in best.weights.items()]
    for row in zip(items[0::3], items[1::3], items[2::3], strict=True):
        weights.add_row(*(cell for pair in row for cell in pair))
    console.print(weights)
    for note in history.notes():
        console.print(f"note: {note}", style="yellow", markup=False, highlight=False)
    console.print(
        f"go on from it, in a job file:\n  search: {{history: {history.file}, start: [history]}}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
