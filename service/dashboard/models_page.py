"""The models folder: what each file is, what it was made of, and how far the files lie from each other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from nicegui import ui

from optimizer.checkpoints import Inspection, size_of
from scoring.errors import InputError
from service.api.context import Ctx
from service.api.problems import responses
from service.dashboard.layout import empty, frame, panel, stat
from service.dashboard.permission import may_change
from service.dashboard.site import site
from service.dashboard.texts import size
from service.errors import NotFound

MAPS = "distance-maps"
RECIPES = ("sd_merge_recipe", "autombw_recipe")
router = APIRouter(include_in_schema=False)


@router.get("/distance-maps/{key}.png", response_class=FileResponse, responses=responses(404))
def distance_map(key: str, context: Ctx) -> FileResponse:
    """A map that was drawn, by the digest of what it shows."""
    kept = context.settings.data_dir / MAPS / f"{key}.png"
    if not key.isalnum() or not kept.is_file():
        raise NotFound(f"there is no map {key!r}; draw it on the page of the models")
    return FileResponse(kept, media_type="image/png")


@ui.page("/models")
def models_page() -> None:
    with frame("Models", active="Models"):
        with ui.element("div").classes("head"), ui.element("h1"):
            ui.label("Models")
        try:
            names = site().catalog.names()
        except InputError as error:
            ui.label(str(error)).classes("banner bad").props('role="alert"')
            return
        if not names:
            with panel():
                folder = site().settings.models_dir
                empty("No models", f"Put checkpoints, all of one architecture, into {folder}.", "inventory_2")
            return
        with ui.element("div").classes("stack"):
            if len(names) > 2:
                _Map(names)
            with panel(f"{len(names)} in the models folder", note="Opening one reads and hashes its file."):
                for name in names:
                    _model(name)


def _model(name: str) -> None:
    try:
        header = site().catalog.header(name)
        words = f"{header.architecture}, {header.prediction_type}, {size(size_of(site().catalog.path(name)))}"
    except (InputError, OSError) as error:
        words = str(error)
    with ui.expansion().classes("wide") as part:
        with part.add_slot("header"):
            ui.label(name).classes("strong wrap grow")
            ui.label(words).classes("soft small wrap")
        box = ui.element("div")

    async def opened() -> None:
        if not part.value or box.default_slot.children:
            return
        with box:
            waiting = ui.spinner(size="1.6em")
        try:
            found = await run_in_threadpool(site().catalog.inspect, name)
        except InputError as error:
            waiting.delete()
            with box:
                ui.label(str(error)).classes("banner bad").props('role="alert"')
            return
        waiting.delete()
        with box:
            _inspection(found)

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
    recipe = next((found.metadata[key] for key in RECIPES if isinstance(found.metadata.get(key), dict)), None)
    if recipe is not None:
        ui.label("What it was made of").classes("strong")
        _recipe(recipe)


def _recipe(recipe: dict[str, Any]) -> None:
    text = json.dumps(recipe, indent=2, ensure_ascii=False)
    ui.code(text, language="json").classes("wide")


class _Map:
    """The distance map, drawn when it is asked for and kept until a file changes."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        with panel("Distances", note="How far the UNets lie from each other; arrows go to what was merged."):
            self._box = ui.element("div")
        self._show()

    def _show(self) -> None:
        self._box.clear()
        with self._box:
            if self._file().is_file():
                ui.image(f"/distance-maps/{self._key()}.png").props["alt"] = "Map of the models"
            else:
                ui.button("Draw the map", icon="hub", on_click=self._draw)
                ui.label("It reads every file once, which takes a minute for ten of 4 GB.").classes(
                    "soft small"
                )

    async def _draw(self) -> None:
        if not may_change():
            return
        self._box.clear()
        with self._box, ui.row():
            ui.spinner(size="1.6em")
            ui.label(f"compares {len(self._names)} files")
        try:
            await run_in_threadpool(self._compute)
        except (InputError, OSError) as error:
            self._box.clear()
            with self._box:
                ui.label(str(error)).classes("banner bad").props('role="alert"')
            return
        self._show()

    def _compute(self) -> None:
        from optimizer.distances import distances_between
        from service.distance_map import draw_distance_map

        paths = [site().catalog.path(name) for name in self._names]
        cache = site().settings.data_dir / "cache"
        out = self._file()
        out.parent.mkdir(parents=True, exist_ok=True)
        draw_distance_map(out, distances_between(paths, cache), self._names, paths, cache)

    def _key(self) -> str:
        """What the map shows: names, sizes and times of the files."""
        said = []
        for name in self._names:
            path = site().catalog.path(name)
            said.append(f"{name}/{size_of(path)}/{path.stat().st_mtime_ns}")
        return hashlib.sha256("\n".join(said).encode()).hexdigest()[:32]

    def _file(self) -> Path:
        return site().settings.data_dir / MAPS / f"{self._key()}.png"
