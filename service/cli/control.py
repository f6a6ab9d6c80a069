"""Commands that change what a running service does with a job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.client import Token, Url, connected
from service.cli.output import AsJson, console, print_json
from service.jobfile import read_job_file

if TYPE_CHECKING:
    from service.progress import JobProgress

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The id that `submit` printed.")]
NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="The node's name in the bracket, as 03b.")]


def pause(job_id: JobId, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Stop working on a job until it is resumed; images in progress are dropped, all else is kept."""
    with connected(url, token) as client:
        _show(client.pause(job_id), as_json)


def resume(job_id: JobId, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Go on with a paused job."""
    with connected(url, token) as client:
        _show(client.resume(job_id), as_json)


def cancel(job_id: JobId, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """End a job for good; what is stored stays."""
    with connected(url, token) as client:
        _show(client.cancel(job_id), as_json)


def retry(
    job_id: JobId,
    node: Annotated[str | None, typer.Option(help="One node only, by its name.")] = None,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a failed or paused job, or one node of it; nothing finished is repeated."""
    with connected(url, token) as client:
        _show(client.retry(job_id, node=node), as_json)


def extend(
    job_id: JobId,
    node: NodeArgument,
    *,
    trials: Annotated[int, typer.Option(help="How many trials more.")],
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Search a finished node further; its file is made anew."""
    with connected(url, token) as client:
        _show(client.extend(job_id, node, trials), as_json)


def add_leaves(
    job_id: JobId,
    leaves: Annotated[list[str], typer.Argument(metavar="LEAF...", help="Models of the models folder.")],
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Add models to the bracket of a running job."""
    with connected(url, token) as client:
        _show(client.add_leaves(job_id, leaves), as_json)


def priority(
    job_id: JobId,
    value: Annotated[int, typer.Argument(help="-100 to 100; jobs of a higher one come first.")],
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Change which job comes first."""
    with connected(url, token) as client:
        _show(client.set_priority(job_id, value), as_json)


def clone(
    job_id: JobId,
    changes: Annotated[
        Path | None, typer.Argument(help="A YAML or JSON file of what shall differ (a merge patch).")
    ] = None,
    *,
    output: Annotated[str | None, typer.Option(help="Name of the clone's final checkpoint.")] = None,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job again, with changes."""
    patch: dict[str, Any] = {} if changes is None else read_job_file(changes)
    if output is not None:
        patch["output"] = output
    with connected(url, token) as client:
        job = client.clone(job_id, patch)
    if as_json:
        print_json(job.model_dump(mode="json"))
    else:
        console.print(f"job {job.id} is queued: {job.name}", highlight=False)


def _show(job: JobProgress, as_json: bool) -> None:
    if as_json:
        print_json(job.model_dump(mode="json"))
    else:
        console.print(f"job {job.id} is {job.state.value}", highlight=False)
