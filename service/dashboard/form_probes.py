"""The form's part on probes: prompts, infotexts and dropped files, and how they are rendered."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from fastapi.concurrency import run_in_threadpool
from nicegui import events, ui

from optimizer.checkpoints.architectures import Architecture
from scoring.errors import InputError
from scoring.probes import Probe, Reading, read_probes
from scoring.probes.files import probe_data
from scoring.rendering.sampling.names import SAMPLERS
from service.dashboard.form_fields import Fields
from service.dashboard.job_form import OWN_SCHEDULE, JobForm, Prompts
from service.dashboard.site import site
from service.dashboard.texts import shorter, size
from service.probes import ProbeSource

MOST_BYTES = 64_000_000
"""Of a dropped file: a large PNG, no more."""
MOST_ROWS = 100
SCHEDULES = (OWN_SCHEDULE, "Karras", "Exponential", "Uniform", "SGM Uniform", "Simple")
COLUMNS = ("Prompt", "Negative", "Seed", "Sampler", "Steps", "CFG", "Size")


class ProbesPart:
    """What is rendered, of one of the two fields of the job file. at: `probes` or `heldout`."""

    def __init__(self, fields: Fields, prompts: Prompts, at: str, placeholder: str) -> None:
        self._fields, self._prompts, self._at = fields, prompts, at
        fields.area("Prompts, one a line", prompts, "text", f"{at}.prompts", placeholder)
        with ui.element("div").classes("fields"):
            fields.text("Seeds", prompts, "seeds", f"{at}.seeds")

    def from_a1111(self) -> None:
        """Where infotexts are pasted and files dropped."""
        with self._fields.fold("From A1111: paste infotexts, drop images or payloads", "image"):
            self._fields.area("Infotexts, as A1111 writes them below an image", self._prompts, "infotexts")
            upload = ui.upload(
                label="Drop PNG, TXT, JSON, YAML or TOML",
                multiple=True,
                auto_upload=True,
                max_file_size=MOST_BYTES,
                on_upload=self._dropped,
                on_rejected=lambda: self._fields.say_at(
                    self._at, f"a file was refused: at most {size(MOST_BYTES)}"
                ),
            )
            upload.props("flat bordered").classes("upload")
            self._file_list = ui.element("div").classes("actions")

    async def _dropped(self, event: events.UploadEventArguments) -> None:
        name = Path(event.file.name).name
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"dropped{Path(name).suffix.lower()}"
                await event.file.save(path)
                data = await run_in_threadpool(probe_data, path)
            await run_in_threadpool(read_probes, data, name)
        except InputError as error:
            said = str(error).removeprefix(str(path)).removeprefix(": ")
            self._fields.say_at(self._at, f"{name}: {said}")
            return
        self._prompts.files[name] = data
        self._file_list.clear()
        with self._file_list:
            for known in self._prompts.files:
                chip = ui.chip(shorter(known, 40), icon="image", removable=True)
                chip.on("remove", lambda _, name=known: self._forget(name))
        self._fields.changed()

    def _forget(self, name: str) -> None:
        self._prompts.files.pop(name, None)
        self._fields.changed()


def rendering_fields(fields: Fields, form: JobForm) -> tuple[ui.number, ui.number]:
    """How prompts are rendered, searched ones and held-out ones; the inputs of width and height."""
    at = "probes.defaults"
    samplers = list(dict.fromkeys(sampler.name for sampler in SAMPLERS.values() if not sampler.fixed))
    with ui.element("div").classes("fields"):
        fields.text("Negative prompt", form, "negative", f"{at}.negative_prompt", "for all of them")
    with ui.element("div").classes("fields small-fields"):
        fields.choice("Sampler", form, "sampler", samplers, f"{at}.sampler")
        fields.choice("Schedule", form, "schedule", SCHEDULES, f"{at}.schedule")
        fields.number("Steps", form, "steps", f"{at}.steps")
        fields.number("CFG", form, "cfg_scale", f"{at}.cfg_scale")
        width = fields.number("Width", form, "width", f"{at}.width")
        height = fields.number("Height", form, "height", f"{at}.height")
    return width, height


class ProbeTable:
    """All probes of a trial as they were understood, one a row; read while it is open."""

    def __init__(
        self, fields: Fields, form: JobForm, architecture: Callable[[], Architecture | None]
    ) -> None:
        self._form, self._architecture = form, architecture
        with fields.fold("What a trial renders, image by image", "table_rows") as self._fold:
            self._box = ui.element("div").classes("table-scroll")
        self._fold.on_value_change(self.refresh)
        self._asked = 0

    async def refresh(self) -> None:
        """Show what is understood of the fields by now."""
        if not self._fold.value:
            return
        self._asked += 1
        asked = self._asked
        try:
            reading = await run_in_threadpool(self._read)
        except InputError as error:
            trouble: str | None = str(error)
            reading = Reading(())
        else:
            trouble = None
        if asked != self._asked:
            return
        self._box.clear()
        with self._box:
            if trouble:
                ui.label(trouble).classes("soft wrap")
                return
            _table(reading)

    def _read(self) -> Reading:
        source = ProbeSource(
            self._form.name or self._form.default_name(), site().settings, self._architecture() or "sd1"
        )
        return source.read(self._form.draft().get("probes") or [], "probes")


def _table(reading: Reading) -> None:
    with ui.element("table").classes("plain"):
        with ui.element("thead"), ui.element("tr"):
            for name in COLUMNS:
                with ui.element("th"):
                    ui.label(name)
        with ui.element("tbody"):
            for probe in reading.probes[:MOST_ROWS]:
                with ui.element("tr"):
                    for value in _cells(probe):
                        with ui.element("td"):
                            ui.label(value)
    if len(reading.probes) > MOST_ROWS:
        ui.label(f"and {len(reading.probes) - MOST_ROWS} more").classes("soft small")
    for line in reading.note_lines():
        ui.label(line).classes("soft small wrap")


def _cells(probe: Probe) -> tuple[str, ...]:
    schedule = f" {probe.schedule}" if probe.schedule else ""
    hires = " + hires" if probe.hires else ""
    return (
        shorter(probe.prompt, 80),
        shorter(probe.negative_prompt, 30),
        str(probe.seed),
        f"{probe.sampler}{schedule}",
        str(probe.steps),
        f"{probe.cfg_scale:g}",
        f"{probe.width} × {probe.height}{hires}",
    )
