"""The contact sheets that `autombw screen` drew into the data folder's `screenings`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import FileResponse
from nicegui import ui

from service.api.context import Ctx
from service.api.problems import responses
from service.dashboard.layout import empty, frame, panel
from service.dashboard.live import follow
from service.dashboard.site import site
from service.dashboard.snapshot import Topic
from service.errors import NotFound

FOLDER = "screenings"
_SHEET = re.compile(r"sheet(-\d+)?\.png")
router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Sheets:
    """One screening: its folder's name and the names of its sheets with the time they were drawn."""

    name: str
    files: tuple[tuple[str, int], ...]


def screenings(folder: Path) -> list[Sheets]:
    """The screenings of a folder that have sheets, the newest first."""
    if not folder.is_dir():
        return []
    found = []
    for one in folder.iterdir():
        drawn = [path for path in one.glob("sheet*.png") if _SHEET.fullmatch(path.name)]
        drawn.sort(key=lambda path: (len(path.name), path.name))
        if drawn:
            files = tuple((path.name, int(path.stat().st_mtime)) for path in drawn)
            found.append(Sheets(one.name, files))
    return sorted(found, key=lambda one: -max(drawn for _, drawn in one.files))


@router.get("/screenings/{name}/{file}", response_class=FileResponse, responses=responses(404))
def sheet(name: str, file: str, context: Ctx) -> FileResponse:
    """One contact sheet."""
    # By what lies there, never by a path that was made of the request's words.
    for one in screenings(context.settings.data_dir / FOLDER):
        if one.name == name and file in {known for known, _ in one.files}:
            return FileResponse(context.settings.data_dir / FOLDER / one.name / file, media_type="image/png")
    raise NotFound(f"there is no sheet {file!r} of a screening {name!r}")


@ui.page("/screening")
def screening_page() -> None:
    with frame("Screening", active="Screening"):
        with ui.element("div").classes("head"), ui.element("h1"):
            ui.label("Screening")
        box = ui.element("div").classes("stack")
        folder = site().settings.data_dir / FOLDER
        topic: Topic[list[Sheets]] = Topic("screenings", lambda _: screenings(folder), every=5.0)
        follow(topic, lambda found: _show(box, found))


def _show(box: ui.element, found: list[Sheets]) -> None:
    box.clear()
    with box:
        if not found:
            with panel():
                empty(
                    "No contact sheets yet",
                    "A screening renders every UNet with every text encoder before anything is merged. "
                    f"`autombw screen … --out {site().settings.data_dir / FOLDER}/NAME` draws them here.",
                    "grid_view",
                )
        for one in found:
            with panel(one.name):
                for file, drawn in one.files:
                    address = f"/screenings/{quote(one.name)}/{file}?drawn={drawn}"
                    with ui.link(target=address, new_tab=True):
                        shown = ui.image(address)
                        shown.props["alt"] = f"{file} of {one.name}"
                        shown.props["loading"] = "lazy"
