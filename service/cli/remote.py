"""Commands that talk to a running service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from service.cli.client import Token, Url, connected
from service.cli.control import JobId
from service.cli.live import STYLES, follow, render_job
from service.cli.output import AsJson, console, print_json
from service.cli.plan import DryRun, show_plan
from service.cli.stopping import UntilGain, with_stop_rule
from service.jobfile import read_job_file


def submit(
    file: Annotated[Path, typer.Argument(help="A job file, YAML or JSON.")],
    *,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    until_gain_per_hour: UntilGain = None,
) -> None:
    """Submit a job file to a running service."""
    request = with_stop_rule(read_job_file(file), until_gain_per_hour)
    with connected(url, token) as client:
        if dry_run:
            show_plan(client.plan(request).model_dump(mode="json"), as_json)
            return
        job = client.submit(request)
    if as_json:
        print_json(job.model_dump(mode="json"))
        return
    console.print(f"job {job.id} is queued; follow it with: autombw watch {job.id}", highlight=False)
    for note in dict.fromkeys(note for node in job.nodes for note in node.notes):
        console.print(f"note: {note}", style="yellow", highlight=False)


def status(
    job_id: Annotated[str | None, typer.Argument(metavar="[JOB]", help="One job; all without it.")] = None,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show all jobs, or one with its scores."""
    with connected(url, token) as client:
        if job_id:
            _show_job(client.job(job_id).model_dump(mode="json"), as_json)
        else:
            _show_jobs([job.model_dump(mode="json") for job in client.jobs()], as_json)


def watch(job_id: JobId, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Follow a job live; exit code 0 when it ends well, 1 when it failed, paused or was cancelled."""
    with connected(url, token) as client:
        job = follow(lambda: client.job(job_id).model_dump(mode="json"), as_json)
    raise typer.Exit(0 if job["state"] == "done" else 1)


def _show_job(job: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(job)
    else:
        console.print(render_job(job))


def _show_jobs(jobs: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(jobs)
        return
    table = Table("job", "state", "name", "submitted", box=None)
    for job in jobs:
        state = f"[{STYLES.get(job['state'], 'default')}]{job['state']}"
        table.add_row(job["id"], state, escape(job["name"]), job["created_at"][:19].replace("T", " "))
    console.print(table if jobs else "no jobs yet; submit one with: autombw submit job.yaml")
