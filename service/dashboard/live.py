"""Topics of the snapshot bound to a page: shown while a browser is connected, in the slot they stand in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from nicegui import ui

from service.dashboard.site import site
from service.dashboard.snapshot import Reading, Topic

T = TypeVar("T")


def follow(topic: Topic[T], show: Callable[[T], None]) -> None:
    """Call `show` with what a topic says, now and after every change, as long as the browser is there.

    It is called within a slot at this place of the page. Until the first reading there is a quiet spinner,
    and what cannot be read is said in words.
    """
    snapshot, client = site().snapshot, ui.context.client
    trouble = ui.label().classes("banner bad").props('role="alert"')
    trouble.set_visibility(False)
    waiting = ui.row().classes("loading").props('role="status" aria-label="Loading"')
    with waiting:
        ui.spinner(size="1.6em")
    box = ui.element("div").classes("slot")
    leaving: list[Callable[[], None]] = []

    def shown(reading: Reading[T]) -> None:
        if client.is_deleted:
            return leave()
        with box:
            waiting.set_visibility(False)
            trouble.set_visibility(reading.trouble is not None)
            trouble.set_text(reading.trouble or "")
            if reading.value is not None:
                show(reading.value)
        return None

    def leave() -> None:
        while leaving:
            leaving.pop()()

    def come() -> None:
        leave()
        leaving.append(snapshot.watch(topic, shown))

    def gone() -> None:
        # A browser that reconnects has its new socket before the old one is given up.
        if not client.has_socket_connection:
            leave()

    known = snapshot.known(topic)
    if known is not None:
        shown(Reading(known))
    if client.has_socket_connection:
        come()
    client.on_connect(come)
    client.on_disconnect(gone)
    client.on_delete(leave)
