"""The workers: their devices, their memory, and what each renders now."""

from __future__ import annotations

from datetime import UTC, datetime

from nicegui import ui

from service.dashboard.layout import empty, frame, panel, set_state, stat, state_badge
from service.dashboard.live import follow
from service.dashboard.snapshot import Topic
from service.dashboard.texts import size
from service.db.records import WorkerRecord, WorkerTask
from service.durations import duration

SILENT_SECONDS = 20.0
WORKERS: Topic[list[WorkerRecord]] = Topic("workers", lambda store: store.workers(), every=2.0)


@ui.page("/workers")
def workers_page() -> None:
    with frame("Workers", active="Workers"):
        with ui.element("div").classes("head"), ui.element("h1"):
            ui.label("Workers")
        follow(WORKERS, Cards(ui.element("div").classes("grid")).show)


class Cards:
    """A card for each worker, made when it comes and changed while it is there."""

    def __init__(self, box: ui.element) -> None:
        self._box = box
        self._cards: dict[str, _Card] = {}

    def show(self, workers: list[WorkerRecord]) -> None:
        """Show what the workers say by now."""
        if [worker.owner for worker in workers] != list(self._cards) or not workers:
            self._box.clear()
            with self._box:
                self._cards = {worker.owner: _Card(worker) for worker in workers}
                if not workers:
                    _nobody()
        for worker in workers:
            self._cards[worker.owner].show(worker)


class _Card:
    def __init__(self, worker: WorkerRecord) -> None:
        with panel(f"{worker.host}, process {worker.pid}"):
            with ui.element("div").classes("head tight"):
                self._state = state_badge("idle")
                ui.label(f"{worker.device} · {worker.device_name}").classes("soft wrap")
            with ui.element("div").classes("stats"):
                self._memory = stat("Memory in use")
                self._silent = stat("Last sign of life")
                self._up = stat("Up for")
            self._work = _Work()

    def show(self, worker: WorkerRecord) -> None:
        now, task = datetime.now(UTC), worker.task
        silent = (now - worker.heartbeat_at).total_seconds()
        set_state(self._state, "silent" if silent > SILENT_SECONDS else "running" if task else "idle")
        self._memory.set_text(f"{size(worker.memory_used)} of {size(worker.memory_total)}")
        self._silent.set_text(f"{duration(max(0.0, silent))} ago")
        self._up.set_text(duration((now - worker.started_at).total_seconds()))
        self._work.show(task)


class _Work:
    """What a worker works on."""

    def __init__(self) -> None:
        with ui.element("div").classes("small wrap"):
            self._nothing = ui.label("waits for work").classes("soft")
            with ui.element("div") as self._something:
                self._job = ui.link()
                self._trial = ui.label()
                self._stored = ui.label().classes("soft")

    def show(self, task: WorkerTask | None) -> None:
        self._nothing.set_visibility(task is None)
        self._something.set_visibility(task is not None)
        if task is None:
            return
        self._job.set_text(task.job_name)
        if self._job.props.get("href") != f"/jobs/{task.job}":
            self._job.props["href"] = f"/jobs/{task.job}"
        self._trial.set_text(task.node if task.trial is None else f"{task.node}, trial {task.trial}")
        stored = "1 image of it is" if task.renders == 1 else f"{task.renders} images of it are"
        self._stored.set_text(f"{stored} stored")


def _nobody() -> None:
    with panel():
        empty(
            "No worker lives",
            "A worker renders and judges what jobs need. `autombw serve` brings one; `autombw "
            "worker` starts another, on any machine that reaches the database and the models.",
            "memory",
        )
