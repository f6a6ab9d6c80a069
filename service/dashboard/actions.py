"""The buttons that change a job: pause, resume, cancel, retry. Each does what its route of the API does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi.concurrency import run_in_threadpool
from nicegui import ui

from service.dashboard.permission import may_change, record
from service.dashboard.site import site
from service.db.states import JOB_FINAL, NODE_GOING, NODE_RETRIABLE, JobState, NodeState
from service.errors import Conflict, NotFound
from service.progress import JobProgress

CANCEL = (
    "It ends for good: its worker stops after the image it is rendering. What it rendered and the "
    "checkpoints it finished stay."
)


@dataclass(frozen=True)
class Action:
    """Something a person can do with a job. done: what is said once it is."""

    name: str
    icon: str
    done: str


PAUSE = Action("Pause", "pause", "Paused. The images being rendered are dropped, all else is kept.")
RESUME = Action("Resume", "play_arrow", "Goes on.")
RETRY = Action("Retry", "replay", "Goes on. No finished trial is repeated.")
STOP = Action("Cancel", "close", "Cancelled.")


def actions_of(progress: JobProgress) -> list[Action]:
    """What can be done with a job as it is."""
    if progress.state in JOB_FINAL:
        return []
    states = {node.state for node in progress.nodes}
    failed = states & (NODE_RETRIABLE - {NodeState.PAUSED})
    possible = [
        (PAUSE, bool(states & NODE_GOING) and progress.state is not JobState.PAUSED),
        (RESUME, NodeState.PAUSED in states),
        (RETRY, bool(failed)),
        (STOP, True),
    ]
    return [action for action, can in possible if can]


class ActionButtons:
    """A row of the buttons that fit a job's state, changed in place."""

    def __init__(self, job_id: str, *, small: bool = False) -> None:
        self._job_id, self._small = job_id, small
        self._row = ui.element("div").classes("actions")
        self._shown: list[Action] = []
        self._name = ""

    def show(self, progress: JobProgress) -> None:
        """Show what can be done by now."""
        self._name = progress.name
        wanted = actions_of(progress)
        if wanted == self._shown:
            return
        self._shown = wanted
        self._row.clear()
        with self._row:
            for action in wanted:
                self._button(action)

    def _button(self, action: Action) -> None:
        press: Callable[[], object] = (self._ask_to_cancel) if action is STOP else self._does(action)
        button = ui.button("" if self._small else action.name, icon=action.icon, on_click=press)
        button.props["outline"] = True
        button.props["color"] = "negative" if action is STOP else "primary"
        button.props["dense"] = self._small
        button.props["aria-label"] = f"{action.name} {self._name}"
        if self._small:
            button.tooltip(action.name)

    def _does(self, action: Action) -> Callable[[], object]:
        return lambda: self._do(action)

    async def _do(self, action: Action) -> None:
        if not may_change():
            return
        store = site().store
        calls = {
            PAUSE: store.pause_job,
            RESUME: store.resume_job,
            RETRY: store.retry_job,
            STOP: store.cancel_job,
        }
        try:
            await run_in_threadpool(calls[action], self._job_id)
        except (Conflict, NotFound) as error:
            ui.notify(str(error), type="negative", multi_line=True)
        else:
            ui.notify(action.done, type="positive")
            await record(f"{action.name.lower()} job {self._job_id}")

    def _ask_to_cancel(self) -> None:
        async def cancel() -> None:
            dialog.close()
            await self._do(STOP)

        with self._row, ui.dialog() as dialog, ui.card().classes("dialog"):
            ui.label(f"Cancel “{self._name}”?").classes("dialog-title wrap")
            ui.label(CANCEL).classes("soft")
            with ui.element("div").classes("actions end"):
                keep = ui.button("Keep it", on_click=dialog.close).props("flat")
                keep.props["autofocus"] = True
                ui.button("Cancel the job", on_click=cancel).props("color=negative")
        dialog.on("hide", dialog.delete)
        dialog.open()
