"""The command `autombw`."""

from __future__ import annotations

import sys

import typer

from scoring.display import printable
from scoring.errors import InputError
from service.cli import (
    afterwards,
    backup,
    bracket,
    components,
    control,
    distances,
    formats,
    health,
    imports,
    local,
    probes,
    remote,
    scorers,
    screen,
    serve,
    study,
    tokens,
    uniform,
    workers,
)
from service.errors import Conflict, NotFound

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Merge Stable Diffusion checkpoints block by block, searched for the best images.",
)
for command in (
    serve.serve,
    remote.submit,
    remote.status,
    remote.watch,
    control.pause,
    control.resume,
    control.cancel,
    control.retry,
    control.extend,
    control.add_leaves,
    control.priority,
    control.clone,
    local.run,
    local.models,
    local.inspect,
    bracket.bracket,
    uniform.uniform,
    distances.distances,
    afterwards.retally,
    afterwards.rescore,
    afterwards.export,
    afterwards.report,
    afterwards.gc,
    formats.recipe,
    formats.presets,
    formats.export_trials,
    formats.export_mecha,
    study.optuna,
    local.worker,
    workers.workers,
    health.health,
    backup.backup,
    backup.restore,
    tokens.audit,
):
    app.command()(command)
app.command("import")(imports.import_history)
app.command(cls=screen.Lists)(screen.screen)
app.add_typer(scorers.app, name="scorers")
app.add_typer(probes.app, name="probes")
app.add_typer(components.app, name="components")
app.add_typer(tokens.app, name="token")


def main() -> None:
    """Run a command; wrong input ends it with exit code 2 and one line on stderr."""
    try:
        app()
    except (InputError, NotFound, Conflict) as error:
        typer.echo(f"autombw: {printable(str(error), lines=True)}", err=True)
        sys.exit(2)
