"""The form that queues a job: it writes the same job file that the API and the command line take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nicegui import background_tasks, ui

from scoring.errors import InputError
from service.api.jobs import submitter
from service.dashboard.form_budget import BudgetPart
from service.dashboard.form_fields import Fields, into_view
from service.dashboard.form_judges import JudgesPart
from service.dashboard.form_models import ModelRow, ModelsPart, SizeFollower, model_rows
from service.dashboard.form_probes import ProbesPart, ProbeTable, rendering_fields
from service.dashboard.job_file_dialog import REFUSED, JobFileDialog
from service.dashboard.job_form import JobForm, checked, written
from service.dashboard.layout import empty, frame, panel
from service.dashboard.permission import asker, may_change, record
from service.dashboard.scorer_choices import Offer, offers
from service.dashboard.site import site
from service.planning import validate_job
from service.threads import run_long


@ui.page("/new")
async def submit_page() -> None:
    with frame("New job", active="Jobs", trail=(("Jobs", "/"),)):
        with ui.element("div").classes("head"), ui.element("h1"):
            ui.label("New job")
        waiting = ui.row().classes("loading")
        with waiting:
            ui.spinner(size="1.6em")
        box = ui.element("div").classes("stack form")
    await ui.context.client.connected()
    try:
        models = await run_long(model_rows)
    except InputError:
        # There is no models folder yet: what is said of an empty one tells where it belongs.
        models = []
    scorers = await run_long(offers, site().settings.scorers_dir)
    waiting.delete()
    with box:
        if len([row for row in models if not row.trouble]) < 2:
            _too_few(models)
        else:
            FormPage(models, scorers)


class FormPage:
    """The form in a browser."""

    def __init__(self, models: Sequence[ModelRow], scorers: Sequence[Offer]) -> None:
        form = self._form = JobForm()
        fields = self._fields = Fields(self._changed)
        self._built = False
        with fields.section(
            "leaves", "1  Models", "Two or more of one architecture. They are merged pair by pair."
        ):
            self._models = ModelsPart(fields, form, models)
        with fields.section("probes", "2  Probes", "What every trial renders, to be judged."):
            probes = ProbesPart(fields, form.probes, "probes", "a lighthouse at dawn, oil painting")
            self._sizes = SizeFollower(form, *rendering_fields(fields, form))
            probes.from_a1111()
            self._table = ProbeTable(fields, form, lambda: self._models.architecture)
        with fields.section(
            "heldout",
            "3  Held-out probes",
            "May be left empty. Never seen by the search: they tell what the gain is worth.",
        ):
            ProbesPart(fields, form.heldout, "heldout", "other prompts than above").from_a1111()
        with fields.section(
            "scorers", "4  Scorers", "Who judges the images. Several are brought to one scale."
        ):
            self._judges = JudgesPart(fields, form, scorers)
        with fields.section("search", "5  Budget", "How long every merge is searched."):
            self._budget = BudgetPart(fields, form)
        with fields.section("name", "6  Name", "May be left empty."), ui.element("div").classes("fields"):
            fields.text("Name of the job", form, "name", "name", "by its models")
            fields.text("Name of the checkpoint", form, "output", "output", "by the job")
            fields.number(
                "Priority, higher comes first", form, "priority", "priority", placeholder="0", least=-100
            )
        with ui.element("div").classes("panel submit-bar"):
            self._general = ui.label().classes("banner bad").props('role="alert"')
            self._general.set_visibility(False)
            with ui.element("div").classes("submit-line"):
                self._cost = ui.label().classes("soft grow").props('role="status"')
                ui.button("Job file", icon="code", on_click=self._show_file).props("flat")
                self._submit_button = ui.button("Submit", icon="rocket_launch", on_click=self._submit)
        self._built = True
        self._changed()

    def _changed(self) -> None:
        """Show anew what follows from the fields."""
        if not self._built:
            return
        self._fields.clear()
        self._general.set_visibility(False)
        merges = self._models.changed()
        self._sizes.follow(self._models.architecture)
        self._judges.changed()
        self._budget.changed()
        self._cost.set_text(self._cost_words(merges))
        background_tasks.create(self._table.refresh(), name="the table of probes")

    def _cost_words(self, merges: int) -> str:
        missing = [
            words
            for there, words in (
                (merges, "tick two models"),
                (self._form.images_per_trial(), "write a prompt"),
                (self._form.scorers, "tick a scorer"),
            )
            if not there
        ]
        if missing:
            return f"Still to do: {', '.join(missing)}."
        images = self._form.images_per_trial() or 0
        return (
            f"{merges} merge{'s' if merges > 1 else ''}, {images} image{'s' if images > 1 else ''} a trial, "
            f"at most {self._form.most_trials() * images:,} images in the search"
        )

    def _show_file(self) -> None:
        JobFileDialog(written(self._form.draft()), self._queue)

    async def _submit(self) -> None:
        self._fields.clear()
        self._general.set_visibility(False)
        self._submit_button.props("loading")
        try:
            await self._queue(self._form.job())
        except REFUSED as error:
            if not self._fields.say(str(error)):
                self._general.set_text(str(error))
                self._general.set_visibility(True)
                into_view(self._general)
        finally:
            self._submit_button.props(remove="loading")

    async def _queue(self, job: dict[str, Any]) -> None:
        if not may_change():
            return
        made = await run_long(_queued, job, submitter(asker(), site().settings))
        await record(f"submit job {made}")
        ui.navigate.to(f"/jobs/{made}")


def _queued(job: dict[str, Any], submitted: dict[str, Any]) -> str:
    """Check and queue a job as the API does; its id. Raises InputError, Conflict."""
    here = site()
    new = validate_job(checked(job), here.settings, here.catalog)
    return here.store.create_job(replace(new, **submitted)).id


def _too_few(models: Sequence[ModelRow]) -> None:
    folder = site().settings.models_dir
    with (
        panel(),
        empty(
            "It takes two models or more",
            f"Put checkpoints of one architecture (.safetensors, .ckpt or diffusers folders) into {folder}; "
            "AUTOMBW_MODELS_DIR names another folder. Then look again.",
            "inventory_2",
        ),
    ):
        ui.button("Look again", icon="refresh", on_click=ui.navigate.reload)
        for row in models:
            ui.label(f"{row.name}: {row.trouble or 'fine'}").classes("small wrap")
