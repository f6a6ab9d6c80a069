"""The blind vote: two images of the same prompt and seed, and which is better."""

from __future__ import annotations

from nicegui import ui

from service.dashboard.layout import frame, panel
from service.dashboard.scripted import scripted


@ui.page("/vote")
def vote_page(job: str = "", node: str = "") -> None:
    """job, node: vote on these alone; else on whatever waits longest."""
    with frame("Vote", active="Vote"), panel():
        scripted("vote", job=job, node=node)
