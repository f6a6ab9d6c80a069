"""The command that shows a merge's study in optuna-dashboard."""

from __future__ import annotations

import importlib.util
import tempfile
import threading
from pathlib import Path
from typing import Annotated

import typer

from scoring.errors import InputError
from service.cli.afterwards import installation
from service.cli.setup import Config
from service.logs import configure_logging
from service.processes import leave_on_signals

PORT = 8189


def optuna(
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")],
    node: Annotated[
        str | None, typer.Argument(metavar="NODE", help="A merge, by name or position; else the final one.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of this machine; 0: any.")] = PORT,
    config: Config = None,
) -> None:
    """Show the trials of a merge in optuna-dashboard, as they come, until Ctrl-C."""
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise InputError("optuna-dashboard is not installed; get it with: pip install 'autombw[dashboard]'")
    from service.study_view import HOST, StudyView, server_of
    from service.trial_table import trial_table

    leave_on_signals()
    with installation(config) as (settings, store), tempfile.TemporaryDirectory(prefix="autombw-") as folder:
        configure_logging(settings)
        view = StudyView(lambda: trial_table(store, job_id, node), Path(folder))
        stop = threading.Event()
        following = threading.Thread(target=view.follow, args=(stop,), name="follow")
        with server_of(view, port) as server:
            typer.echo(f"study {view.name} on http://{HOST}:{server.server_port}/dashboard")
            following.start()
            try:
                server.serve_forever()
            finally:
                stop.set()
                following.join()
