"""The models folder: what each file is, what it was made of, and how far the files lie from each other."""

from __future__ import annotations

from collections.abc import Sequence

from nicegui import ui

from optimizer.checkpoints import Inspection
from optimizer.checkpoints.architectures import TITLES
from scoring.errors import InputError
from service.dashboard.distance_panel import DistancePanel
from service.dashboard.form_models import ModelRow, model_rows
from service.dashboard.layout import empty, frame, panel, stat
from service.dashboard.recipe_tree import show_recipe
from service.dashboard.site import site
from service.threads import run_long

FEWEST_ON_A_MAP = 3


@ui.page("/models")
async def models_page() -> None:
    with frame("Models", active="Models"):
        with ui.element("div").classes("head"), ui.element("h1"):
            ui.label("Models")
        waiting = ui.row().classes("loading")
        with waiting:
            ui.spinner(size="1.6em")
        box = ui.element("div").classes("stack")
    await ui.context.client.connected()
    try:
        rows, trouble = await run_long(model_rows), ""
    except (InputError, OSError) as error:
        rows, trouble = [], str(error)
    waiting.delete()
    with box:
        if trouble:
            ui.label(trouble).classes("banner bad").props('role="alert"')
        elif not rows:
            with panel():
                folder = site().settings.models_dir
                empty("No models", f"Put checkpoints, all of one architecture, into {folder}.", "inventory_2")
        else:
            _maps(rows)
            with panel(f"{len(rows)} in the models folder", note="Opening one reads and hashes its file."):
                for row in rows:
                    _model(row)


def _maps(rows: Sequence[ModelRow]) -> None:
    """A map for every architecture of which there are enough models to be drawn."""
    architectures = dict.fromkeys(row.architecture for row in rows if row.architecture is not None)
    for architecture in architectures:
        names = [row.name for row in rows if row.architecture == architecture]
        if len(names) >= FEWEST_ON_A_MAP:
            several = len(architectures) > 1
            DistancePanel(names, f"Distances, {TITLES[architecture]}" if several else "Distances")


def _model(row: ModelRow) -> None:
    with ui.expansion().classes("wide") as part:
        with part.add_slot("header"):
            ui.label(row.name).classes("strong wrap grow")
            ui.label(row.trouble or row.about).classes("soft small wrap")
        box = ui.element("div")

    async def opened() -> None:
        if not part.value or box.default_slot.children:
            return
        with box:
            waiting = ui.spinner(size="1.6em")
        try:
            found = await run_long(site().catalog.inspect, row.name)
        except (InputError, OSError) as error:
            waiting.delete()
            with box:
                ui.label(str(error)).classes("banner bad").props('role="alert"')
            return
        waiting.delete()
        with box:
            _inspection(found)
            await show_recipe(found.metadata, row.name, found.sha256)

    part.on_value_change(opened)


def _inspection(found: Inspection) -> None:
    with ui.element("div").classes("stats"):
        stat("Parameters", f"{found.parameters / 1e6:,.1f} M")
        stat("Tensors", f"{found.tensors:,} " + ", ".join(found.dtypes))
        stat("A1111's hash", found.short_hash or "–")
    ui.label(f"sha256 {found.sha256}").classes("mono")
    broken = {part: bad for part, bad in (found.bad_values or {}).items() if bad.nan or bad.inf}
    for part, bad in broken.items():
        ui.label(f"{part}: {bad.nan} NaN, {bad.inf} Inf").classes("bad")
    if found.missing_keys:
        ui.label(f"{len(found.missing_keys)} tensors are missing").classes("warn")
