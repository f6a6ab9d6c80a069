"""The workers: their devices, their memory, and what each renders now."""

from __future__ import annotations

from datetime import UTC, datetime

from nicegui import ui

from service.dashboard.layout import empty, frame, panel, stat, state_badge
from service.dashboard.live import follow
from service.dashboard.snapshot import Topic
from service.dashboard.texts import size
from service.db.records import WorkerRecord
from service.durations import duration

SILENT_SECONDS = 20.0
WORKERS: Topic[list[WorkerRecord]] = Topic("workers", lambda store: store.workers(), every=2.0)


@ui.page("/workers")
def workers_page() -> None:
    with frame("Workers", active="Workers"):
        with ui.element("div").classes("head"), ui.element("h1"):
            ui.label("Workers")
        box = ui.element("div").classes("grid")
        follow(WORKERS, lambda workers: _show(box, workers))


def _show(box: ui.element, workers: list[WorkerRecord]) -> None:
    box.clear()
    with box:
        if not workers:
            with panel():
                empty(
                    "No worker lives",
                    "A worker renders and judges what jobs need. `autombw serve` brings one; `autombw "
                    "worker` starts another, on any machine that reaches the database and the models.",
                    "memory",
                )
        for worker in workers:
            _card(worker)


def _card(worker: WorkerRecord) -> None:
    silent = (datetime.now(UTC) - worker.heartbeat_at).total_seconds()
    task = worker.task
    with panel(f"{worker.host}, process {worker.pid}"):
        state = "silent" if silent > SILENT_SECONDS else "running" if task else "idle"
        with ui.element("div").classes("head tight"):
            state_badge(state)
            ui.label(f"{worker.device} · {worker.device_name}").classes("soft wrap")
        with ui.element("div").classes("stats"):
            stat("Memory in use", f"{size(worker.memory_used)} of {size(worker.memory_total)}")
            stat("Last sign of life", f"{duration(max(0.0, silent))} ago")
            stat("Up for", duration((datetime.now(UTC) - worker.started_at).total_seconds()))
        if task is None:
            ui.label("waits for work").classes("soft small")
            return
        with ui.element("div").classes("small wrap"):
            ui.link(task.job_name, f"/jobs/{task.job}")
            ui.label(f"{task.node}" + (f", trial {task.trial}" if task.trial is not None else ""))
            ui.label(f"{task.renders} images of it are stored").classes("soft")
