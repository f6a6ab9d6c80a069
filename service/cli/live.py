"""Live progress of a job in the terminal, for `watch` and `run`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from service.cli.output import console

AT_REST = ("done", "failed", "cancelled", "paused")
POLL_SECONDS = 0.5
WARNING = "yellow"
UNSEARCHED = {"average": "all leaves", "compose": "components"}
STYLES = {
    "done": "green",
    "failed": "red",
    "paused": "yellow",
    "cancelled": "yellow",
    "running": "cyan",
    "voting": "magenta",
}


def follow(fetch: Callable[[], dict[str, Any]], as_json: bool) -> dict[str, Any]:
    """Show a job (JobProgress as JSON data) until nothing more happens in it; its last progress.

    With as_json, one line of JSON is printed for every change instead.
    """
    return _follow_json(fetch) if as_json else _follow_live(fetch)


def _follow_json(fetch: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    shown = None
    while True:
        job = fetch()
        if job != shown:
            typer.echo(json.dumps(job, ensure_ascii=False, default=str))
            shown = job
        if job["state"] in AT_REST:
            return job
        time.sleep(POLL_SECONDS)


def _follow_live(fetch: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    job = fetch()
    with Live(render_job(job), console=console, refresh_per_second=4) as live:
        while job["state"] not in AT_REST:
            time.sleep(POLL_SECONDS)
            job = fetch()
            live.update(render_job(job))
    return job


def render_job(job: dict[str, Any]) -> RenderableType:
    """A job with its nodes, as `watch` and `status JOB` show it."""
    title = Text.assemble(
        (job["name"], "bold"), f"  {job['id']}  ", (job["state"], STYLES.get(job["state"], ""))
    )
    nodes = job["nodes"]
    if len(nodes) == 1:
        return Group(title, _node(nodes[0]))
    shown = [node for node in nodes if node["state"] not in ("waiting", "ready", "done")]
    final = [node for node in nodes if node["final"] and node["state"] == "done"]
    detailed = (*shown, *final)
    others = [node for node in nodes if node not in detailed]
    said = [Text(f"{node['name']}: {text}", WARNING) for node in others for text in node["warnings"]]
    return Group(title, _tree(nodes), *said, *(_node(node) for node in detailed), _result(job["result"]))


def _tree(nodes: list[dict[str, Any]]) -> Table:
    table = Table("node", "A", "B", "state", "trials", "score", "gain", "held-out gain", box=None)
    for node in sorted(nodes, key=lambda node: (node["level"] or math.inf, node["position"])):
        best = node["scores"].get("heldout/winner", node["scores"].get("search/winner"))
        table.add_row(
            node["name"],
            node["a"] or UNSEARCHED.get(node["kind"], ""),
            node["b"] or "",
            Text(node["state"], STYLES.get(node["state"], "dim")),
            f"{_ended(node)}/{node['trials_planned']}",
            _number(best),
            _signed(node["gain"]),
            _signed(node["heldout_gain"]),
        )
    return table


def _result(result: dict[str, Any]) -> Table:
    """The final model beside the leaves and their uniform merge."""
    table = Table("", "search", "heldout", box=None)
    rows = {**result["leaves"], "uniform merge of all": result["average"], "winner": result["winner"]}
    for name, scores in rows.items():
        if scores["search"] is not None:
            table.add_row(name, _number(scores["search"]), _number(scores["heldout"]))
    if result["gain"] is not None:
        table.add_row("gain", _signed(result["gain"]), _signed(result["heldout_gain"]))
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> Text:
    return Text("–") if value is None else Text(f"{value:+.4f}", "green" if value > 0 else "red")


def _node(node: dict[str, Any]) -> RenderableType:
    ended = _ended(node)
    planned = node["trials_planned"]
    inputs = f"{node['a']} + {node['b']}" if node["b"] else node["a"] or "all leaves"
    lines: list[RenderableType] = [
        Text(f"{inputs} -> {node['output']}", "dim"),
        # A bar alone ends without a line break.
        Padding(
            ProgressBar(total=planned, completed=planned if node["state"] == "done" else ended, width=60)
        ),
        Text(_pace(node, ended)),
        _scores(node),
    ]
    if node["confidence"]:
        lines.append(Text(f"winner: {node['confidence']['text']}"))
    if node["going_on"]:
        lines.append(Text(f"going on: {node['going_on']['text']}"))
    lines += [Text(text, WARNING) for text in node["warnings"]]
    if node["stop_reason"]:
        lines.append(Text(f"the search ended: {node['stop_reason']}", "dim"))
    if node["reason"]:
        lines.append(Text(node["reason"], "red"))
    if node["checkpoint"]:
        lines.append(
            Text(f"{node['checkpoint']['path']}\nsha256 {node['checkpoint']['sha256']}", overflow="fold")
        )
    return Group(*lines)


def _ended(node: dict[str, Any]) -> int:
    return int(node["trials_done"] + node["trials_failed"] + node["trials_stopped"])


def _pace(node: dict[str, Any], ended: int) -> str:
    parts = [f"trial {ended} of {node['trials_planned']}"]
    if node["votes"] and node["votes"]["needed"]:
        parts.append(f"{node['votes']['there']} of {node['votes']['needed']} votes")
    if node["trials_failed"]:
        parts.append(f"{node['trials_failed']} failed")
    if node["trials_stopped"]:
        noise = f" (probe noise {node['probe_noise']:.2g})" if node["probe_noise"] is not None else ""
        parts.append(f"{node['trials_stopped']} stopped early{noise}")
    if node["trials_warned"]:
        parts.append(f"{node['trials_warned']} to be looked at")
    if node["best"]:
        chosen = "".join(f", {name.replace('_', ' ')} {o}" for name, o in node["best"]["choices"].items())
        parts.append(f"best {node['best']['score']:.4f} (trial {node['best']['number']}{chosen})")
    if node["renders_per_second"]:
        parts.append(f"{node['renders_per_second']:.1f} renders/s")
    if node["eta_seconds"]:
        minutes, seconds = divmod(round(node["eta_seconds"]), 60)
        parts.append(f"ETA {minutes // 60}:{minutes % 60:02}:{seconds:02}")
    return ", ".join(parts)


def _scores(node: dict[str, Any]) -> Table:
    table = Table("", "A", "B", "uniform", "winner", "gain", box=None)
    for phase, gain in (("search", node["gain"]), ("heldout", node["heldout_gain"])):
        values = [node["scores"].get(f"{phase}/{name}") for name in ("a", "b", "uniform", "winner")]
        if any(value is not None for value in values):
            table.add_row(phase, *(_number(value) for value in values), _signed(gain))
    return table
