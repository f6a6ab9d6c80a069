"""When a search shall stop, said on the command line instead of in the job file."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from scoring.errors import InputError

OPTION = "--until-gain-per-hour"

UntilGain = Annotated[
    float | None,
    typer.Option(
        OPTION,
        metavar="SCORE",
        help="Stop a search when going on is expected to gain less than so much score per hour of the "
        "device; search.until_gain_per_hour of the job file is replaced.",
    ),
]


def with_stop_rule(request: dict[str, Any], least: float | None) -> dict[str, Any]:
    """A job request in which every search that has no rule of its own stops by this one, where it is given.

    Raises InputError for what is no gain.
    """
    if least is None:
        return request
    if not 0 < least < math.inf:
        raise InputError(f"{OPTION} {least:g}: give a score per hour above 0, such as 0.01")
    search = request.get("search") or {}
    # What is no mapping is left for the check of the whole request, which names it.
    return (
        {**request, "search": {**search, "until_gain_per_hour": least}}
        if isinstance(search, dict)
        else request
    )
