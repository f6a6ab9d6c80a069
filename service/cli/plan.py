"""A job told step by step in the terminal, for `--dry-run`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.cli.output import console, print_json

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything and tell what the job would do; queue nothing.")
]


def show_plan(plan: dict[str, Any], as_json: bool) -> None:
    """Print a job's plan (JobPlan as JSON data)."""
    if as_json:
        print_json(plan)
        return
    for line in _lines(plan):
        # Names may hold brackets, which are no markup here.
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _lines(plan: dict[str, Any]) -> list[str]:
    lines = [
        f"{plan['name']}: {plan['architecture']}, {len(plan['leaves'])} leaves, {len(plan['steps'])} steps"
    ]
    for step in plan["steps"]:
        lines += ["", f"{step['number']}. {step['does']}", *(f"   {text}" for text in step["details"])]
        if step["waits_for"]:
            lines.append(f"   waits for {', '.join(step['waits_for'])}")
        if step["writes"]:
            lines.append(f"   writes {step['writes']}, about {_mb(step['bytes'])}")
    disk = plan["disk"]
    return [
        *lines,
        "",
        f"at most {plan['trials']} trials, {plan['renders']} images, "
        f"{plan['denoising_steps']} denoising steps",
        f"judged by {', '.join(plan['scorers'])}; tally {plan['tally']}",
        *([f"watched by {', '.join(plan['watch'])}"] if plan["watch"] else []),
        f"disk: at most {_mb(disk['checkpoints'])} of checkpoints and {_mb(disk['images'])} of images; "
        f"{_mb(disk['free'])} are free",
        f"result: {plan['output']}",
        *(f"note: {note}" for note in plan["notes"]),
        "nothing was queued",
    ]


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
