"""What a new installation lacks for its first job, and how it comes."""

from __future__ import annotations

from dataclasses import dataclass

from nicegui import ui

from scoring.errors import InputError
from service.dashboard.scorer_choices import offers
from service.dashboard.site import Site, site


@dataclass(frozen=True)
class Step:
    """One thing that a job needs. words: what there is of it, or how it comes."""

    title: str
    done: bool
    words: str


def first_steps(here: Site) -> list[Step]:
    """Models, then somebody who judges."""
    folder = here.settings.models_dir
    try:
        count = len(here.catalog.names())
    except InputError:
        count = 0
    there = "there is one" if count else "there are none"
    models = Step(
        "Two models or more",
        count > 1,
        f"{count} in {folder}"
        if count > 1
        else f"Put checkpoints of one architecture into {folder}; {there} now.",
    )
    judges = [
        offer.name
        for offer in offers(here.settings.scorers_dir)
        if offer.ready and not offer.guard and not offer.voted
    ]
    scorers = Step(
        "A scorer",
        bool(judges),
        f"{', '.join(judges)} can judge"
        if judges
        else "None has its weights yet. New job lists the commands that get them; until then you can judge "
        "yourself: tick human there.",
    )
    return [models, scorers]


def show_first_steps() -> None:
    """The list, in this place of the page."""
    with ui.element("ul").classes("steps"):
        for step in first_steps(site()):
            with ui.element("li"):
                icon = ui.icon("check_circle" if step.done else "radio_button_unchecked")
                icon.classes("good" if step.done else "soft").props('aria-hidden="true"')
                with ui.element("div"):
                    ui.label(step.title + ("" if step.done else ": missing")).classes("strong")
                    ui.label(step.words).classes("soft small wrap")
