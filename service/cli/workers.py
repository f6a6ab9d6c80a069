"""The command that lists workers."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.table import Table

from service.cli.client import DEFAULT_SERVER, Client, Server
from service.cli.output import AsJson, console, print_json


def workers(server: Server = DEFAULT_SERVER, as_json: AsJson = False) -> None:
    """List the workers of a service: their devices, their memory, what each is at."""
    with Client(server) as client:
        found = client.get("/api/v1/workers")
    if as_json:
        print_json(found)
        return
    table = Table("host", "process", "device", "memory", "works on", "seen", box=None)
    for worker in found:
        task = worker["task"]
        at = "–" if task is None else f"{task['job_name']}, {task['node']}"
        if task and task["trial"] is not None:
            at += f", trial {task['trial']}: {task['renders']} images"
        used, total = worker["memory_used"], worker["memory_total"]
        memory = "–" if total is None else f"{used / 1e9:.1f} of {total / 1e9:.1f} GB"
        seconds = (datetime.now(UTC) - datetime.fromisoformat(worker["heartbeat_at"])).total_seconds()
        device = f"{worker['device']} ({worker['device_name']})"
        table.add_row(worker["host"], str(worker["pid"]), device, memory, at, f"{max(0, seconds):.0f} s ago")
    console.print(table if found else "no worker lives; start one with: autombw worker")
