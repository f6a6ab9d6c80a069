"""The form that queues a job: it writes the same job file that the API and the command line take."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from fastapi.concurrency import run_in_threadpool
from nicegui import events, ui

from optimizer.checkpoints import size_of
from optimizer.checkpoints.architectures import TITLES, Architecture
from scoring.errors import InputError
from scoring.probes import read_probes
from scoring.probes.files import probe_data
from scoring.rendering.sampling.names import SAMPLERS
from service.api.jobs import submitter
from service.dashboard.job_form import (
    OWN_SCHEDULE,
    SIZES,
    JobForm,
    ScorerChoice,
    checked,
    field_of,
    written,
)
from service.dashboard.layout import empty, frame, panel
from service.dashboard.permission import asker, may_change, record
from service.dashboard.scorer_choices import Offer, offers
from service.dashboard.site import site
from service.dashboard.texts import shorter, size
from service.errors import Conflict, TooMany
from service.planning import GUARDS_BY_DEFAULT, validate_job

MOST_BYTES = 64_000_000
"""Of a dropped file: a large PNG, no more."""
SEARCHES = {
    "gp": "Gaussian process: best with up to some hundred trials",
    "tpe": "TPE: for thousands of trials",
    "cmaes": "CMA-ES: around the uniform merge",
    "random": "random: to compare with",
}
BRACKETS = {"balanced": "balanced: rounds of pairs", "sequential": "sequential: one after the other"}
SEEDINGS = {
    "given": "as picked",
    "score": "by score: the best meet first",
    "distance": "by distance: alike models meet first",
}


@dataclass(frozen=True)
class ModelRow:
    """A model of the folder. trouble: in words, where it cannot be read."""

    name: str
    size: int
    architecture: Architecture | None
    about: str
    trouble: str = ""


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
    models = await run_in_threadpool(_models)
    scorers = await run_in_threadpool(offers, site().settings.scorers_dir)
    waiting.delete()
    with box:
        if len([row for row in models if not row.trouble]) < 2:
            _too_few(models)
        else:
            FormPage(models, scorers).build()


class FormPage:
    """The form in a browser."""

    def __init__(self, models: list[ModelRow], scorers: list[Offer]) -> None:
        self._models = {row.name: row for row in models}
        self._scorers = scorers
        self._form = JobForm()
        self._errors: dict[str, ui.label] = {}
        self._built = False

    def build(self) -> None:
        """Draw all of it."""
        with self._section(
            "leaves", "1  Models", "Two or more of one architecture. They are merged pair by pair."
        ):
            self._model_list()
        with self._section(
            "probes", "2  Probes", "What every trial renders: your prompts, or images of A1111 again."
        ):
            self._probe_fields()
        with self._section(
            "heldout", "3  Held-out probes", "Never seen by the search: they tell what the gain is worth."
        ):
            self._heldout_fields()
        with self._section(
            "scorers", "4  Scorers", "Who judges the images. Several are brought to one scale."
        ):
            self._scorer_list()
        with self._section("search", "5  Budget", "How long every merge is searched."):
            self._budget()
        with self._section("name", "6  Name", "Both may be left empty."), ui.element("div").classes("fields"):
            self._input("Name of the job", "name", placeholder="by its models")
            self._input("Name of the checkpoint", "output", placeholder="by the job")
        with ui.element("div").classes("panel submit-bar"):
            self._general = ui.label().classes("banner bad").props('role="alert"')
            self._general.set_visibility(False)
            with ui.element("div").classes("submit-line"):
                self._cost = ui.label().classes("soft grow")
                ui.button("Job file", icon="code", on_click=self._show_file).props("flat")
                self._submit_button = ui.button("Submit", icon="rocket_launch", on_click=self._submit)
        self._built = True
        self._changed()

    @contextmanager
    def _section(self, field: str, title: str, note: str = "") -> Iterator[None]:
        """A part of the form, with the place of its error."""
        with panel(title, note=note):
            error = ui.label().classes("banner bad").props('role="alert"')
            error.set_visibility(False)
            self._errors[field] = error
            yield

    def _model_list(self) -> None:
        with ui.element("div").classes("models"):
            for row in self._models.values():
                with ui.element("label").classes("model-row" + (" off" if row.trouble else "")):
                    box = ui.checkbox(on_change=lambda event, name=row.name: self._pick(name, event.value))
                    box.props["aria-label"] = row.name
                    box.set_enabled(not row.trouble)
                    with ui.element("div").classes("grow"):
                        ui.label(row.name).classes("strong wrap")
                        ui.label(row.trouble or row.about).classes(
                            f"small wrap {'bad' if row.trouble else 'soft'}"
                        )
        with ui.element("div").classes("fields"):
            self._select("Bracket", "bracket", BRACKETS)
            self._select("Order of the models", "seeding", SEEDINGS)
        ui.label("What is merged with what").classes("small strong")
        self._bracket = ui.element("div").classes("bracket").props('aria-live="polite"')

    def _probe_fields(self) -> None:
        self._area("Prompts, one a line", self._form.probes, "text", "a lighthouse at dawn, oil painting")
        with ui.element("div").classes("fields"):
            self._input("Seeds", "seeds", of=self._form.probes)
            self._input("Negative prompt", "negative", placeholder="for all of them")
        with ui.element("div").classes("fields small-fields"):
            self._select(
                "Sampler", "sampler", list(dict.fromkeys(s.name for s in SAMPLERS.values() if not s.fixed))
            )
            self._select(
                "Schedule",
                "schedule",
                [OWN_SCHEDULE, "Karras", "Exponential", "Uniform", "SGM Uniform", "Simple"],
            )
            self._number("Steps", "steps")
            self._number("CFG", "cfg_scale")
            self._width = self._number("Width", "width")
            self._height = self._number("Height", "height")
        with ui.expansion("From A1111: paste infotexts, drop images or payloads", icon="image").classes(
            "wipe-box"
        ):
            self._area("Infotexts, as A1111 writes them below an image", self._form, "infotexts", "")
            upload = ui.upload(
                label="Drop PNG, TXT, JSON, YAML or TOML",
                multiple=True,
                auto_upload=True,
                max_file_size=MOST_BYTES,
                on_upload=self._dropped,
                on_rejected=lambda: self._say("probes", f"a file was refused: at most {size(MOST_BYTES)}"),
            )
            upload.props("flat bordered").classes("upload")
            self._file_list = ui.element("div").classes("actions")

    def _heldout_fields(self) -> None:
        self._area("Prompts, one a line", self._form.heldout, "text", "other prompts than above")
        with ui.element("div").classes("fields"):
            self._input("Seeds", "seeds", of=self._form.heldout)

    def _scorer_list(self) -> None:
        ready = [offer for offer in self._scorers if offer.ready and not offer.guard]
        if not ready:
            with empty(
                "No scorer is installed",
                "Get one with the commands below, then load this page again.",
                "gavel",
            ):
                pass
        for number, offer in enumerate(ready):
            self._scorer(offer, chosen=number == 0)
        missing = [offer for offer in self._scorers if not offer.ready]
        if missing:
            with ui.expansion(f"{len(missing)} more that need their weights", icon="download").classes(
                "wipe-box"
            ):
                for offer in missing:
                    ui.label(offer.name).classes("strong")
                    ui.label(offer.what).classes("soft small wrap")
                    for command in offer.needs:
                        ui.label(command).classes("mono command")
        guards = " and ".join(GUARDS_BY_DEFAULT)
        ui.label(f"{guards} watch beside them: they never count, and warn when a score is gamed.").classes(
            "soft small"
        )

    def _scorer(self, offer: Offer, *, chosen: bool) -> None:
        choice = ScorerChoice(offer.name, model=offer.models[0] or None)

        def tick(on: bool) -> None:
            kept = [each for each in self._form.scorers if each is not choice]
            self._form.scorers = [*kept, choice] if on else kept
            self._changed()

        with ui.element("div").classes("scorer-row"):
            box = ui.checkbox(value=False, on_change=lambda event: tick(bool(event.value)))
            box.props["aria-label"] = offer.name
            with ui.element("div").classes("grow"):
                ui.label(offer.name).classes("strong")
                ui.label(offer.what).classes("soft small wrap")
            if offer.models != [""]:
                names = {model: model or f"{offer.name} (its own)" for model in offer.models}
                model = ui.select(names, value=offer.models[0], label="Weights").props("dense outlined")
                model.on_value_change(lambda event: self._set(choice, "model", event.value or None))
            weight = ui.number("Weight", value=1, min=0.01, step=0.5).props("dense outlined").classes("short")
            weight.on_value_change(lambda event: self._set(choice, "weight", event.value or 1.0))
        box.set_value(chosen)

    def _budget(self) -> None:
        with ui.element("div").classes("fields small-fields"):
            self._number("Trials per merge", "trials")
            self._number("Trials of the last merge", "final_trials", placeholder="the same")
            self._number("Minutes per merge", "minutes", placeholder="no limit")
            self._number("Stop without gain for", "patience", placeholder="never", suffix="trials")
            self._number(
                "Stop below a gain of", "until_gain_per_hour", placeholder="never", suffix="score / hour"
            )
        with ui.element("div").classes("fields"):
            self._select("Search", "search", SEARCHES)
            self._number("Seed of the search", "seed")

    def _input(self, label: str, name: str, *, of: object = None, placeholder: str = "") -> ui.input:
        target = of or self._form
        shown = ui.input(label, value=getattr(target, name), placeholder=placeholder).props("outlined dense")
        shown.on_value_change(lambda event: self._set(target, name, event.value or ""))
        return shown

    def _area(self, label: str, target: object, name: str, placeholder: str) -> None:
        area = ui.textarea(label, value=getattr(target, name), placeholder=placeholder)
        area.props("outlined autogrow debounce=300").classes("wide")
        area.on_value_change(lambda event: self._set(target, name, event.value or ""))

    def _number(self, label: str, name: str, *, placeholder: str = "", suffix: str = "") -> ui.number:
        shown = ui.number(
            label, value=getattr(self._form, name), placeholder=placeholder, min=0, suffix=suffix or None
        )
        shown.props("outlined dense debounce=300" + (" stack-label" if placeholder else ""))
        shown.on_value_change(lambda event: self._set(self._form, name, event.value))
        return shown

    def _select(self, label: str, name: str, options: Any) -> None:
        shown = ui.select(options, value=getattr(self._form, name), label=label).props("outlined dense")
        shown.on_value_change(lambda event: self._set(self._form, name, event.value))

    def _set(self, target: object, name: str, value: object) -> None:
        setattr(target, name, value)
        self._changed()

    def _pick(self, name: str, on: bool) -> None:
        others = [leaf for leaf in self._form.leaves if leaf != name]
        self._form.leaves = [*others, name] if on else others
        if len(self._form.leaves) == 1 and on:
            self._fit_size(self._models[name].architecture)
        self._changed()

    def _fit_size(self, architecture: Architecture | None) -> None:
        """Sizes that a person left as they were follow the models."""
        if (
            architecture is not None
            and self._form.width == self._form.height
            and self._form.width in SIZES.values()
        ):
            self._width.set_value(SIZES[architecture])
            self._height.set_value(SIZES[architecture])

    async def _dropped(self, event: events.UploadEventArguments) -> None:
        name = Path(event.file.name).name
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"dropped{Path(name).suffix.lower()}"
                await event.file.save(path)
                data = await run_in_threadpool(probe_data, path)
            await run_in_threadpool(read_probes, data, name)
        except InputError as error:
            self._say("probes", f"{name}: {str(error).removeprefix(str(path)).removeprefix(': ')}")
            return
        self._form.files[name] = data
        self._list_files()
        self._changed()

    def _list_files(self) -> None:
        self._file_list.clear()
        with self._file_list:
            for name in self._form.files:
                chip = ui.chip(shorter(name, 40), icon="image", removable=True)
                chip.on("remove", lambda _, name=name: self._forget(name))

    def _forget(self, name: str) -> None:
        self._form.files.pop(name, None)
        self._changed()

    def _changed(self) -> None:
        """Show anew what follows from the fields."""
        if not self._built:
            return
        for label in self._errors.values():
            label.set_visibility(False)
        self._bracket.clear()
        merges: list[tuple[str, str, str]] = []
        with self._bracket:
            try:
                merges = self._form.table() if len(self._form.leaves) > 1 else []
            except InputError as error:
                ui.label(str(error)).classes("bad small")
            if not merges:
                ui.label("Pick two models or more.").classes("soft small")
            for o, a, b in merges:
                with ui.element("div").classes("merge-line"):
                    ui.label(o).classes("strong")
                    ui.label(f"= {a} + {b}").classes("wrap")
        self._cost.set_text(self._cost_words(len(merges)))

    def _cost_words(self, merges: int) -> str:
        images, trials = self._form.images_per_trial(), int(self._form.trials or 0)
        if not merges or not images:
            return "Pick models, write prompts, choose a scorer."
        all_trials = trials * (merges - 1) + int(self._form.final_trials or trials) if merges > 1 else trials
        return (
            f"{merges} merge{'s' if merges > 1 else ''}, {images} image{'s' if images > 1 else ''} a trial, "
            f"at most {all_trials * images:,} images in all"
        )

    def _say(self, field: str, words: str) -> None:
        """Show an error beside its field, or below where it is about none."""
        label = self._errors.get(field, self._general)
        label.set_text(words)
        label.set_visibility(True)
        ui.run_javascript(
            f"getHtmlElement({label.id})?.scrollIntoView({{block: 'center', behavior: 'smooth'}})"
        )

    def _show_file(self) -> None:
        try:
            text = written(self._form.job())
        except InputError as error:
            self._refused(error)
            return
        with ui.dialog() as dialog, ui.card().classes("file-dialog"):
            ui.label("Job file").classes("dialog-title")
            ui.label(
                "What `autombw submit` takes too. Change it here for what the form does not offer."
            ).classes("soft small")
            area = ui.textarea(value=text).props("outlined input-class=mono rows=18").classes("wide")
            area.props["aria-label"] = "Job file"
            trouble = ui.label().classes("banner bad")
            trouble.set_visibility(False)

            async def submit_text() -> None:
                try:
                    job = yaml.safe_load(area.value or "")
                    if not isinstance(job, dict):
                        raise InputError("a job file holds names and values")
                    await self._queue(job)
                except (InputError, Conflict, yaml.YAMLError) as error:
                    trouble.set_text(str(error))
                    trouble.set_visibility(True)

            with ui.element("div").classes("actions end"):
                ui.button("Close", on_click=dialog.close).props("flat")
                ui.button(
                    "Download", icon="download", on_click=lambda: ui.download.content(area.value, "job.yaml")
                ).props("flat")
                ui.button("Submit this", on_click=submit_text)
        dialog.on("hide", dialog.delete)
        dialog.open()

    async def _submit(self) -> None:
        self._general.set_visibility(False)
        self._submit_button.props("loading")
        try:
            await self._queue(self._form.job())
        except (InputError, Conflict, TooMany) as error:
            self._refused(error)
        finally:
            self._submit_button.props(remove="loading")

    def _refused(self, error: Exception) -> None:
        words = str(error)
        self._say(field_of(words), words)

    async def _queue(self, job: dict[str, Any]) -> None:
        if not may_change():
            return
        made = await run_in_threadpool(_queued, job, submitter(asker(), site().settings))
        await record(f"submit job {made}")
        ui.navigate.to(f"/jobs/{made}")


def _queued(job: dict[str, Any], submitted: dict[str, Any]) -> str:
    """Check and queue a job as the API does; its id. Raises InputError, Conflict."""
    here = site()
    new = validate_job(checked(job), here.settings, here.catalog)
    return here.store.create_job(replace(new, **submitted)).id


def _models() -> list[ModelRow]:
    """All models of the folder, as far as their headers tell; the readable ones first."""
    catalog = site().catalog
    rows = []
    for name in catalog.names():
        try:
            header = catalog.header(name)
        except (InputError, OSError) as error:
            rows.append(ModelRow(name, 0, None, "", str(error)))
            continue
        about = f"{TITLES[header.architecture]} · {header.prediction_type} · {size(header.size)}"
        rows.append(ModelRow(name, size_of(catalog.path(name)), header.architecture, about))
    return sorted(rows, key=lambda row: (bool(row.trouble), row.name))


def _too_few(models: list[ModelRow]) -> None:
    folder = site().settings.models_dir
    with (
        panel(),
        empty(
            "It takes two models or more",
            f"Put checkpoints of one architecture (.safetensors, .ckpt or diffusers folders) into {folder}; "
            "AUTOMBW_MODELS_DIR names another folder. Then load this page again.",
            "inventory_2",
        ),
    ):
        for row in models:
            ui.label(f"{row.name}: {row.trouble or 'fine'}").classes("small wrap")
