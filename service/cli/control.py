"""Commands that change what a running service does with a job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.client import DEFAULT_SERVER, Client, Server
from service.cli.output import AsJson, console, print_json
from service.jobfile import read_job_file

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The id that `submit` printed.")]
NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="The node's name in the bracket, as 03b.")]


def pause(job_id: JobId, server: Server = DEFAULT_SERVER, as_json: AsJson = False) -> None:
    """Stop working on a job until it is resumed; images in progress are dropped, all else is kept."""
    _act(server, job_id, "pause", as_json)


def resume(job_id: JobId, server: Server = DEFAULT_SERVER, as_json: AsJson = False) -> None:
    """Go on with a paused job."""
    _act(server, job_id, "resume", as_json)


def cancel(job_id: JobId, server: Server = DEFAULT_SERVER, as_json: AsJson = False) -> None:
    """End a job for good; what is stored stays."""
    _act(server, job_id, "cancel", as_json)


def retry(
    job_id: JobId,
    node: Annotated[str | None, typer.Option(help="One node only, by its name.")] = None,
    server: Server = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """Go on with a failed or paused job, or one node of it; nothing finished is repeated."""
    _act(server, job_id, "retry" if node is None else f"retry?node={node}", as_json)


def extend(
    job_id: JobId,
    node: NodeArgument,
    trials: Annotated[int, typer.Option(help="How many trials more.")],
    server: Server = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """Search a finished node further; its file is made anew."""
    _act(server, job_id, f"nodes/{node}/extend", as_json, {"trials": trials})


def add_leaves(
    job_id: JobId,
    leaves: Annotated[list[str], typer.Argument(metavar="LEAF...", help="Models of the models folder.")],
    server: Server = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """Add models to the bracket of a running job."""
    _act(server, job_id, "leaves", as_json, {"leaves": leaves})


def priority(
    job_id: JobId,
    value: Annotated[int, typer.Argument(help="-100 to 100; jobs of a higher one come first.")],
    server: Server = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """Change which job comes first."""
    _act(server, job_id, "priority", as_json, {"priority": value})


def clone(
    job_id: JobId,
    changes: Annotated[
        Path | None, typer.Argument(help="A YAML or JSON file of what shall differ (a merge patch).")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Name of the clone's final checkpoint.")] = None,
    server: Server = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """Submit a job again, with changes."""
    patch: dict[str, Any] = {} if changes is None else read_job_file(changes)
    if output is not None:
        patch["output"] = output
    with Client(server) as client:
        job = client.post(f"/api/v1/jobs/{job_id}/clone", patch)
    if as_json:
        print_json(job)
    else:
        console.print(f"job {job['id']} is queued: {job['name']}", highlight=False)


def _act(server: str, job_id: str, action: str, as_json: bool, body: Any = None) -> None:
    with Client(server) as client:
        job = client.post(f"/api/v1/jobs/{job_id}/{action}", body)
    if as_json:
        print_json(job)
    else:
        console.print(f"job {job_id} is {job['state']}", highlight=False)
