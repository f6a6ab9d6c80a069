"""Commands for files of other tools: recipes in metadata, presets, sd-mecha, tables of trials."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from scoring.errors import InputError
from service.cli.output import AsJson, console, print_json
from service.cli.setup import Config
from service.settings import load_settings

if TYPE_CHECKING:
    from optimizer.blocks import BlockWeights
    from optimizer.formats.merge_metadata import Merge, Model
    from optimizer.formats.trials_table import TrialTable

Format = Literal["csv", "json", "optuna", "mbwrt"]
_BARS = " ▁▂▃▄▅▆▇█"
_SUFFIXES: dict[str, Format] = {".csv": "csv", ".json": "json", ".db": "optuna", ".sqlite3": "optuna"}


def recipe(
    file: Annotated[
        Path,
        typer.Argument(help="A checkpoint, or a JSON file with the metadata of one.", show_default=False),
    ],
    as_json: AsJson = False,
) -> None:
    """Show the merges that a checkpoint's metadata tells of, ours and other tools', with all ancestors."""
    from optimizer.formats.merge_metadata import read_ancestry

    found = read_ancestry(file)
    if as_json:
        print_json({**_model_json(found.model), "notices": found.notices})
        return
    tree = Tree(f"[bold]{escape(found.model.title)}[/]{_how(found.model.merge)}")
    _add_merge(tree, found.model.merge, set())
    console.print(tree, highlight=False, soft_wrap=True)
    for notice in found.notices:
        console.print(f"notice: {notice}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def presets(
    file: Annotated[
        Path | None, typer.Argument(help="A preset file of another tool; else the well-known presets.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List block-weight presets (GRAD_V, FLAT_25, …) with their weights by block."""
    from optimizer.formats.presets import WELL_KNOWN, read_presets

    found = list(WELL_KNOWN.values()) if file is None else read_presets(file)
    if as_json:
        print_json([{"name": p.name, "base": p.base, "weights": p.weights} for p in found])
        return
    table = Table("preset", "IN00 … M00 … OUT11", "from", "to", box=None)
    for preset in found:
        alphas = list(preset.weights.values())
        bars = "".join(_BARS[round(alpha * (len(_BARS) - 1))] for alpha in alphas)
        table.add_row(escape(preset.name), bars, _short(min(alphas)), _short(max(alphas)))
    console.print(table, highlight=False)


def export_mecha(
    file: Annotated[Path, typer.Argument(help="A checkpoint that autombw merged.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The .mecha file to write.", show_default=False)],
    models: Annotated[
        Path | None,
        typer.Option(help="Folder of A and B as sd-mecha is to find them; else by their names alone."),
    ] = None,
) -> None:
    """Write a merge as a recipe of sd-mecha that gives the same tensors."""
    from optimizer.checkpoints import open_checkpoint
    from optimizer.formats.mecha import mecha_recipe, write_mecha
    from optimizer.recipes import read_recipe

    with open_checkpoint(file) as opened:
        found = read_recipe(opened.metadata)
    if found is None:
        raise InputError(f"{file}: has no recipe of autombw; give a checkpoint that one of its merges wrote")
    if found.components:
        raise InputError(
            f"{file}: not all of it is A's and B's (but its {' and its '.join(found.components)}), and the "
            ".mecha file could not say that; share the checkpoint"
        )
    a, b = (_named_file(parent.name, models) for parent in (found.a, found.b))
    write_mecha(out, mecha_recipe(a, b, found.weights, found.architecture))
    console.print(f"{out}: {a} and {b}", markup=False, highlight=False, soft_wrap=True)


def export_trials(
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")],
    file: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)],
    node: Annotated[
        str | None, typer.Option(help="A merge, by name or position; else the final one.")
    ] = None,
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="csv, json, optuna (a study in a SQLite file) or mbwrt (a history of auto-MBW-rt); else by "
            "the file's ending.",
        ),
    ] = None,
    config: Config = None,
) -> None:
    """Write the trials of a merge, as far as it is, for spreadsheets, programs and Optuna."""
    from service.db.store import Store
    from service.trial_table import trial_table

    chosen = format_ or _SUFFIXES.get(file.suffix.lower())
    if chosen is None:
        raise InputError(f"{file}: its ending tells no format; give --format csv, json, optuna or mbwrt")
    store = Store(load_settings(config).database_url)
    try:
        table = trial_table(store, job_id, node)
    finally:
        store.close()
    written = _write_trials(file, table, chosen)
    console.print(f"{file}: {written}", markup=False, highlight=False, soft_wrap=True)


def _write_trials(file: Path, table: TrialTable, chosen: Format) -> str:
    from optimizer.formats.optuna_study import write_study
    from optimizer.formats.trials_table import mbwrt_history, trials_csv, trials_json

    if chosen == "optuna":
        return f"study {write_study(file, table)} with {len(table.trials)} trials; optuna-dashboard opens it"
    text = {"csv": trials_csv, "json": trials_json, "mbwrt": mbwrt_history}[chosen](table)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror or error}") from error
    return f"{len(table.trials)} trials of node {table.node}"


def _named_file(name: str, folder: Path | None) -> str:
    file = name if Path(name).suffix in (".safetensors", ".ckpt") else f"{name}.safetensors"
    return file if folder is None else str(folder / file)


def _add_merge(tree: Tree, merge: Merge | None, shown: set[str]) -> None:
    """The parents of a merge below it; what stands in the tree already is not told again."""
    if merge is None:
        return
    if merge.weights:
        tree.add(f"[dim]{_weights_text(merge.weights)}[/]")
    for number, parent in enumerate(merge.parents):
        # A1111 names them A, B and C; a uniform merge may have more than letters.
        letter = "ABC"[number] if len(merge.parents) <= 3 else str(number + 1)
        sha256 = f"  [dim]{parent.sha256[:10]}[/]" if parent.sha256 else ""
        legacy = f" [dim]({escape(parent.legacy_hash)})[/]" if parent.legacy_hash else ""
        branch = tree.add(f"{letter}  {escape(parent.title)}{sha256}{legacy}{_how(parent.merge)}")
        if parent.merge is not None and parent.sha256 in shown:
            branch.add("[dim]as above[/]")
            continue
        shown.add(parent.sha256 or "")
        _add_merge(branch, parent.merge, shown)


def _weights_text(weights: BlockWeights) -> str:
    """Three lines of names and weights: input blocks, output blocks, and the others."""
    rows: dict[str, list[str]] = {"IN": [], "OUT": [], "": []}
    for block, alpha in weights.items():
        numbered = block.rstrip("0123456789")
        row = numbered if numbered in rows and numbered != block else ""
        rows[row].append(f"{block} {_short(alpha)}")
    return "\n".join("  ".join(row) for row in rows.values() if row)


def _how(merge: Merge | None) -> str:
    if merge is None:
        return ""
    share = "" if merge.multiplier is None else f" {merge.multiplier:g}"
    return f" = [cyan]{escape(merge.method)}{share}[/] [dim]({escape(merge.kind)})[/]"


def _short(alpha: float) -> str:
    return f"{alpha:.3g}"


def _model_json(model: Model) -> dict[str, object]:
    """A model and, in a table by their hashes, all its ancestors: one may be a parent many times."""
    ancestors: dict[str, object] = {}
    waiting = list(model.merge.parents) if model.merge else []
    while waiting:
        each = waiting.pop()
        if each.sha256 and each.sha256 not in ancestors:
            ancestors[each.sha256] = {
                "name": each.name,
                "legacy_hash": each.legacy_hash,
                "merge": _merge_json(each.merge),
            }
            waiting.extend(each.merge.parents if each.merge else [])
    return {"name": model.name, "merge": _merge_json(model.merge), "ancestors": ancestors}


def _merge_json(merge: Merge | None) -> dict[str, object] | None:
    if merge is None:
        return None
    parents = [{"name": parent.name, "sha256": parent.sha256} for parent in merge.parents]
    return {**vars(merge), "parents": parents, "details": dict(merge.details)}
