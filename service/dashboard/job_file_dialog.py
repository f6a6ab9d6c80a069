"""A job as the file that will be sent: read, changed, checked, saved and sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import ui

from scoring.data_text import parse_yaml
from scoring.errors import InputError
from service.dashboard.job_form import checked
from service.dashboard.site import site
from service.dashboard.texts import size
from service.errors import Conflict, TooMany
from service.explaining import JobPlan, explain_job
from service.threads import run_long

REFUSED = (InputError, Conflict, TooMany)


def parsed(text: str) -> dict[str, Any]:
    """A job file. Raises InputError."""
    try:
        job = parse_yaml(text)
    except ValueError as error:
        raise InputError(f"the job file cannot be read as YAML: {error}") from error
    if not isinstance(job, dict):
        raise InputError("a job file holds names and values (leaves:, probes:, scorers:)")
    return {str(name): value for name, value in job.items()}


def plan_lines(plan: JobPlan) -> list[str]:
    """What a job would do, as a person reads it."""
    steps = [f"{step.number}. {step.name}: {step.does}" for step in plan.steps]
    disk = plan.disk
    return [
        *steps,
        f"At most {plan.trials:,} trials, {plan.renders:,} images, {plan.denoising_steps:,} denoising steps.",
        f"Writes {plan.output}: {size(disk.checkpoints)} of checkpoints and at most {size(disk.images)} of "
        f"images; {size(disk.free)} are free.",
        *plan.notes,
    ]


class JobFileDialog:
    """The dialog. submit: queues a job, or raises what refuses it."""

    def __init__(self, text: str, submit: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        self._submit = submit
        with ui.dialog() as self._dialog, ui.card().classes("file-dialog"):
            ui.label("Job file").classes("dialog-title")
            ui.label(
                "What will be sent; `autombw submit` takes the same. Change it here for what the form does "
                "not offer, or paste another one."
            ).classes("soft small")
            self._area = ui.textarea(value=text).props("outlined input-class=mono rows=18").classes("wide")
            self._area.props["aria-label"] = "Job file"
            self._trouble = ui.label().classes("banner bad").props('role="alert"')
            self._trouble.set_visibility(False)
            self._plan = ui.label().classes("banner").props('role="status"')
            self._plan.set_visibility(False)
            with ui.element("div").classes("actions end"):
                ui.button("Close", on_click=self._dialog.close).props("flat")
                ui.button(
                    "Download",
                    icon="download",
                    on_click=lambda: ui.download.content(self._area.value or "", "job.yaml"),
                ).props("flat")
                self._buttons = (
                    ui.button("Check", icon="fact_check", on_click=self._check).props("flat"),
                    ui.button("Submit this", on_click=self._send),
                )
        self._dialog.on("hide", self._dialog.delete)
        self._dialog.open()

    async def _check(self) -> None:
        await self._guarded(self._explain)

    async def _send(self) -> None:
        await self._guarded(self._submit)

    async def _explain(self, job: dict[str, Any]) -> None:
        here = site()
        plan = await run_long(explain_job, checked(job), here.settings, here.catalog, here.store)
        self._plan.set_text("\n".join(plan_lines(plan)))
        self._plan.set_visibility(True)

    async def _guarded(self, step: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        self._trouble.set_visibility(False)
        self._plan.set_visibility(False)
        for button in self._buttons:
            button.disable()
        try:
            await step(parsed(self._area.value or ""))
        except REFUSED as error:
            self._trouble.set_text(str(error))
            self._trouble.set_visibility(True)
        finally:
            for button in self._buttons:
                button.enable()
