"""What all pages share: header, navigation, dark and light, and the frame they stand in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nicegui import ui

from service.dashboard.permission import log_out
from service.dashboard.theme import add_toggle

NAVIGATION = (
    ("Jobs", "/", "account_tree"),
    ("Gallery", "/gallery", "photo_library"),
    ("Models", "/models", "inventory_2"),
    ("Screening", "/screening", "grid_view"),
    ("Vote", "/vote", "how_to_vote"),
    ("Workers", "/workers", "memory"),
)
STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
MARK = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" '
    'fill="#5b4ee6"/><path d="M7 8c2 13 5 16 9 16s7-3 9-16" fill="none" stroke="#fff" stroke-width="3" '
    'stroke-linecap="round"/><circle cx="16" cy="24" r="3" fill="#ffb454"/></svg>'
)


@contextmanager
def frame(title: str, *, active: str = "", trail: tuple[tuple[str, str], ...] = ()) -> Iterator[None]:
    """A page: its title in the browser, which entry of the navigation it belongs to (by label), and the
    (label, path) of the pages above it."""
    ui.page_title(f"{title} · autombw")
    ui.add_css(STYLE)
    ui.colors(
        primary="#5b4ee6", positive="#12805c", negative="#c73838", warning="#b06a00", dark_page="#0f121a"
    )
    with ui.element("header").classes("top"):
        with ui.link(target="/").classes("brand").props('aria-label="autombw, all jobs"'):
            ui.html(MARK, sanitize=False).classes("mark")
            ui.label("autombw")
        with ui.element("nav").classes("nav").props('aria-label="Pages"'):
            for label, path, icon in NAVIGATION:
                here = label == active
                with (
                    ui.link(target=path)
                    .classes("here" if here else "")
                    .props('aria-current="page"' if here else "")
                ):
                    ui.icon(icon).props('aria-hidden="true"')
                    ui.label(label)
        add_toggle()
        log_out()
    main = ui.element("main").classes("content").props('tabindex="-1"')
    ui.skip_link("Skip to the content", target=main).move(target_index=0)
    with main:
        if trail:
            with ui.element("nav").classes("trail").props('aria-label="Where this is"'):
                for label, path in trail:
                    ui.link(label, path)
                    ui.label("/").classes("soft").props('aria-hidden="true"')
                ui.label(title).classes("soft")
        yield


@contextmanager
def panel(title: str = "", *, note: str = "", classes: str = "") -> Iterator[ui.element]:
    """A bordered part of a page with its heading. note: a quiet line below it."""
    with ui.element("section").classes(f"panel {classes}") as section:
        if title:
            heading(title, note)
        yield section


def heading(text: str, note: str = "") -> None:
    """The heading of a part, with a quiet line that explains it."""
    with ui.element("div").classes("panel-head"):
        with ui.element("h2"):
            ui.label(text)
        if note:
            ui.label(note).classes("soft note")


def empty(title: str, words: str, icon: str = "inbox") -> ui.element:
    """What stands where there is nothing yet: what would be here and how it comes."""
    with ui.element("div").classes("empty") as box:
        ui.icon(icon).props('aria-hidden="true"')
        ui.label(title).classes("empty-title")
        ui.label(words).classes("soft")
    return box


def stat(label: str, value: str = "–", hint: str = "") -> ui.label:
    """A figure with its name above; the returned label is its value, to be changed."""
    with ui.element("div").classes("stat") as box:
        ui.label(label).classes("soft stat-name")
        shown = ui.label(value).classes("stat-value")
        if hint:
            box.tooltip(hint)
    return shown


def state_badge(state: str) -> ui.label:
    """A state as a coloured word with a dot, which does not rely on its colour."""
    return ui.label(state.replace("_", " ")).classes(f"state state-{state}")


def set_state(badge: ui.label, state: str) -> None:
    """Change what a state badge says."""
    said = state.replace("_", " ")
    if badge.text != said:
        badge.set_text(said)
        badge.classes(replace=f"state state-{state}")
