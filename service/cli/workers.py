"""The command that lists workers."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.markup import escape
from rich.table import Table

from service.cli.client import Token, Url, connected
from service.cli.output import AsJson, console, print_json


def workers(url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """List the workers of a service: their devices, their memory, what each is at."""
    with connected(url, token) as client:
        found = client.workers()
    if as_json:
        print_json([worker.model_dump(mode="json") for worker in found])
        return
    table = Table("host", "process", "device", "memory", "works on", "seen", box=None)
    for worker in found:
        task = worker.task
        at = "–" if task is None else f"{task.job_name}, {task.node}"
        if task is not None and task.trial is not None:
            at += f", trial {task.trial}: {task.renders} images"
        used, total = worker.memory_used, worker.memory_total
        memory = "–" if used is None or total is None else f"{used / 1e9:.1f} of {total / 1e9:.1f} GB"
        seconds = max(0.0, (datetime.now(UTC) - worker.heartbeat_at).total_seconds())
        device = f"{worker.device} ({worker.device_name})"
        cells = (worker.host, str(worker.pid), device, memory, at, f"{seconds:.0f} s ago")
        table.add_row(*map(escape, cells))
    console.print(table if found else "no worker lives; start one with: autombw worker")
