"""Commands that talk to a running service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from service.cli.client import DEFAULT_SERVER, Client, Server
from service.cli.control import JobId
from service.cli.live import STYLES, follow, render_job
from service.cli.output import AsJson, console, print_json
from service.cli.plan import DryRun, show_plan
from service.jobfile import read_job_file


def submit(
    file: Annotated[Path, typer.Argument(help="A job file, YAML or JSON.")],
    server: Server = DEFAULT_SERVER,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Submit a job file to a running service."""
    request = read_job_file(file)
    if dry_run:
        with Client(server) as client:
            show_plan(client.post("/api/v1/jobs/plan", request), as_json)
        return
    with Client(server) as client:
        job = client.post("/api/v1/jobs", request)
    if as_json:
        print_json(job)
        return
    console.print(f"job {job['id']} is queued; follow it with: autombw watch {job['id']}", highlight=False)
    for note in dict.fromkeys(note for node in job["nodes"] for note in node["notes"]):
        console.print(f"note: {note}", style="yellow", highlight=False)


def status(
    job_id: Annotated[str | None, typer.Argument(metavar="[JOB]", help="One job; all without it.")] = None,
    server: Server = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """Show all jobs, or one with its scores."""
    with Client(server) as client:
        found = client.get(f"/api/v1/jobs/{job_id}" if job_id else "/api/v1/jobs")
    if as_json:
        print_json(found)
    elif job_id:
        console.print(render_job(found))
    else:
        table = Table("job", "state", "name", "submitted", box=None)
        for job in found:
            table.add_row(
                job["id"],
                f"[{STYLES.get(job['state'], 'default')}]{job['state']}",
                job["name"],
                job["created_at"][:19].replace("T", " "),
            )
        console.print(table if found else "no jobs yet; submit one with: autombw submit job.yaml")


def watch(job_id: JobId, server: Server = DEFAULT_SERVER, as_json: AsJson = False) -> None:
    """Follow a job live; exit code 0 when it ends well, 1 when it failed, paused or was cancelled."""
    with Client(server) as client:
        job = follow(lambda: dict(client.get(f"/api/v1/jobs/{job_id}")), as_json)
    raise typer.Exit(0 if job["state"] == "done" else 1)
