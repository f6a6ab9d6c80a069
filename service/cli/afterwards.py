"""Commands for what a job has left behind. They open its database and need no service."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table

from scoring.errors import InputError
from service.cli.output import AsJson, console, print_json
from service.cli.setup import Config
from service.settings import Settings, describe, load_settings

# SQLAlchemy, torch and diffusers take seconds to import: only the commands that need them may pay for them.
if TYPE_CHECKING:
    from service.afterwards.gc import Collected
    from service.afterwards.retally import NodeRetally
    from service.db.store import Store

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]
NodeName = Annotated[
    str | None, typer.Option("--node", help="One node, by name or position; all if not given.")
]


def retally(
    job_id: JobId,
    *,
    tally: Annotated[str | None, typer.Option(help="Another tally, such as median.")] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(metavar="SCORER=WEIGHT", help="Another weight of a scorer; 0 leaves it out."),
    ] = None,
    node: NodeName = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Judge a job's trials by another tally or other weights of the scorers; nothing is changed."""
    from service.afterwards.retally import RetallyRequest
    from service.afterwards.retally import retally as judge_anew

    request = RetallyRequest(tally=tally, weights=_weights(weight or []), node=node)
    with installation(config) as (_, store):
        found = judge_anew(store, job_id, request)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    for retallied in found.nodes:
        _print_retally(job_id, retallied)


def rescore(
    job_id: JobId,
    *,
    scorer: Annotated[
        list[str],
        typer.Option(metavar="SCORER[=MODEL]", help="A scorer, and its weights in the scorers folder."),
    ],
    reverse: Annotated[
        list[str] | None, typer.Option(metavar="SCORER", help="One of them of which less is better.")
    ] = None,
    node: NodeName = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Let a new scorer judge the stored images of a job; run again, it goes on where it was."""
    from service.afterwards.rescore import NewScorer, Rescorer, RescoreRequest

    named = [text.partition("=") for text in scorer]
    turned = set(reverse or [])
    if unknown := turned - {name for name, _, _ in named}:
        raise InputError(f"--reverse {', '.join(sorted(unknown))}: name that scorer with --scorer too")
    scorers = [
        NewScorer(scorer=name, model=model or None, reverse=name in turned) for name, _, model in named
    ]
    with installation(config) as (settings, store):
        request = RescoreRequest(scorers=scorers, node=node)
        rescorer = Rescorer(store, settings, job_id, request, local=True)
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), disable=as_json) as bar:
            task = bar.add_task("images", total=rescorer.todo())
            found = rescorer.run(lambda count: bar.advance(task, count))
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    table = Table("node", "scorer", "judged", "given up", "missing", box=None)
    for each in found.nodes:
        table.add_row(escape(each.node), each.scorer, str(each.added), str(each.collected), str(each.missing))
    console.print(table)
    weights = " ".join(f"--weight {new.scorer}=1" for new in scorers)
    console.print(f"weigh it: autombw retally {job_id} {weights}", markup=False, highlight=False)


def export(
    job_id: JobId,
    *,
    node: Annotated[str | None, typer.Option(help="By name or position; else the final one.")] = None,
    trial: Annotated[
        int | None, typer.Option(min=0, help="Number of the trial; else the node's best one.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Name of the file; else the node's with the trial's number.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Write the merge of any trial as a checkpoint; without --trial and --output, a node's file again."""
    from service.afterwards.export import Exporter, ExportRequest
    from service.catalog import Catalog

    with installation(config) as (settings, store):
        exporter = Exporter(store, settings, Catalog(settings.models_dir), job_id)
        written = exporter.export(ExportRequest(node=node, trial=trial, output=output))
    if as_json:
        print_json(written.model_dump(mode="json"))
        return
    for name in written.made_again:
        console.print(f"made {name} again, which goes into it", style="dim", markup=False, highlight=False)
    console.print(f"{written.path}\nsha256 {written.sha256}", markup=False, highlight=False, soft_wrap=True)


def gc(
    jobs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[JOB]...", help="Else all jobs in which nothing happens by itself."),
    ] = None,
    *,
    images: Annotated[
        str,
        typer.Option(
            help="Keep all, none, or best-K: of each node's K best trials, the baselines and held-out."
        ),
    ] = "all",
    checkpoints: Annotated[
        str, typer.Option(help="Keep all, or the final one; `export` makes the others again.")
    ] = "all",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make room: give up images and checkpoints that are not kept, and files that nothing names."""
    from pydantic import ValidationError

    from service.afterwards.gc import CollectRequest, collect

    given = {"jobs": jobs or [], "images": images, "checkpoints": checkpoints, "dry_run": dry_run}
    try:
        request = CollectRequest.model_validate(given)
    except ValidationError as error:
        raise InputError(describe(error)) from error
    with installation(config) as (settings, store):
        found = collect(store, settings, request)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print_collected(found)


def report(
    job_id: JobId,
    *,
    out: Annotated[Path | None, typer.Option(help="The file to write; else report-JOB.html.")] = None,
    per_hour: Annotated[float | None, typer.Option(help="What an hour of computing costs.")] = None,
    config: Config = None,
) -> None:
    """Write the report of a job, as far as it is, as one HTML file: gains, images, weights, time."""
    from service.report.page import report_html

    with installation(config) as (settings, store):
        page = report_html(store, settings, job_id, per_hour=per_hour)
    file = out or Path(f"report-{job_id}.html")
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {file}: cannot be written: {error.strerror or error}") from error
    console.print(f"{file} ({len(page) / 1e6:.1f} MB)", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def installation(config: Config) -> Iterator[tuple[Settings, Store]]:
    """The settings and the open store of an installation."""
    from service.db.store import Store

    settings = load_settings(config)
    store = Store(settings.database_url)
    try:
        yield settings, store
    finally:
        store.close()


def _weights(given: list[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            weights[name] = float(value)
        except ValueError as error:
            raise InputError(f"--weight {text!r}: give SCORER=WEIGHT, such as clip=0.5") from error
    return weights


def _print_retally(job_id: str, found: NodeRetally) -> None:
    weights = ", ".join(f"{name} {weight:g}" for name, weight in found.weights.items())
    console.print(f"[bold]{escape(found.node)}[/]  {found.tally}; {escape(weights)}", highlight=False)
    table = Table("trial", "", "score then", "stored score", box=None, padding=(0, 2, 0, 2))
    for trial in found.best:
        table.add_row(str(trial.number), trial.baseline or "", f"{trial.after:.4f}", f"{trial.before:.4f}")
    console.print(table)
    before, after = found.best_before, found.best_after
    if before and after and before.number == after.number:
        console.print(f"  trial {before.number} stays the best", highlight=False)
    elif before and after:
        then = "and can't be counted then" if before.after is None else f"and {before.after:.4f} then"
        console.print(
            f"  trial {after.number} instead of trial {before.number}, which has {before.before:.4f} now "
            f"{then}; its file: autombw export {job_id} --node {escape(found.node)} --trial {after.number}",
            highlight=False,
        )
    if found.rank_correlation is not None:
        console.print(f"  rank correlation {found.rank_correlation:.3f}", highlight=False)
    without: dict[str, list[int]] = defaultdict(list)
    for trial_left_out in found.not_counted:
        without[trial_left_out.reason].append(trial_left_out.number)
    for reason, numbers in without.items():
        shown = ", ".join(map(str, numbers[:10])) + (f" and {len(numbers) - 10} more" * (len(numbers) > 10))
        console.print(f"  not counted: {shown}: {escape(reason)}", style="yellow", highlight=False)


def _print_collected(found: Collected) -> None:
    table = Table("", "files", "MB", box=None)
    checkpoints = sum(made.size for made in found.checkpoints)
    for what, files, size in (
        (f"images of {found.renders} renders", found.images.files, found.images.bytes),
        ("intermediate checkpoints", len(found.checkpoints), checkpoints),
        ("their small pictures", found.thumbnails.files, found.thumbnails.bytes),
        ("files that nothing names", found.orphans.files, found.orphans.bytes),
    ):
        table.add_row(what, str(files), f"{size / 1e6:.1f}")
    console.print(table)
    for made in found.checkpoints:
        console.print(
            f"{made.name}: autombw export {made.job} --node {made.node} makes it again",
            style="dim",
            markup=False,
            highlight=False,
        )
    if found.young:
        console.print(f"{found.young} files are too young; a worker may be naming them now", style="dim")
    done = "would be freed; leave out --dry-run to do it" if found.dry_run else "freed"
    console.print(f"{found.freed_bytes() / 1e6:.1f} MB {done}", highlight=False)
