"""The contact sheet of all renders."""

from __future__ import annotations

from nicegui import ui

from service.dashboard.layout import frame
from service.dashboard.scripted import scripted


@ui.page("/gallery")
def gallery_page() -> None:
    with frame("Gallery", active="Gallery"):
        with ui.element("div").classes("head"), ui.element("h1"):
            ui.label("Gallery")
        scripted("gallery")
