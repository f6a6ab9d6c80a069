"""The list of jobs: which run, how far they are, what they gained."""

from __future__ import annotations

from nicegui import ui

from service.dashboard.job_topics import JobLine, jobs_topic
from service.dashboard.layout import empty, frame, panel, set_state, stat, state_badge
from service.dashboard.live import follow
from service.dashboard.texts import duration, signed

SHOWN = 50


@ui.page("/")
def jobs_page() -> None:
    with frame("Jobs", active="Jobs"):
        with ui.element("div").classes("head"):
            with ui.element("h1").classes("grow"):
                ui.label("Jobs")
            ui.button("New job", icon="add", on_click=lambda: ui.navigate.to("/new"))
        cards = JobCards()
        follow(jobs_topic(SHOWN), cards.show)


class JobCards:
    """A card for every job, changed in place."""

    def __init__(self) -> None:
        self._box = None
        self._cards: dict[str, JobCard] = {}
        self._order: list[str] = []

    def show(self, lines: list[JobLine]) -> None:
        order = [line.progress.id for line in lines]
        if self._box is None or order != self._order:
            if self._box is not None:
                self._box.delete()
            self._order, self._cards = order, {}
            self._box = ui.element("div").classes("stack")
            with self._box:
                if not lines:
                    self._welcome()
                for line in lines:
                    self._cards[line.progress.id] = JobCard(line.progress.id)
        for line in lines:
            self._cards[line.progress.id].show(line)

    def _welcome(self) -> None:
        with (
            panel(),
            empty(
                "No jobs yet",
                "A job merges a folder of checkpoints into one better checkpoint: it tries block weights, "
                "renders your prompts and keeps what scores best.",
                "account_tree",
            ),
        ):
            ui.button("New job", icon="add", on_click=lambda: ui.navigate.to("/new"))


class JobCard:
    """One job of the list."""

    def __init__(self, job_id: str) -> None:
        with panel():
            with ui.element("div").classes("head"):
                with ui.element("h2").classes("grow wrap"):
                    self._name = ui.link("", f"/jobs/{job_id}")
                self._state = state_badge("queued")
            with ui.element("div").classes("bar") as self._bar:
                self._filled = ui.element("div")
            with ui.element("div").classes("stats"):
                self._trials = stat("Trials")
                self._gain = stat("Best gain")
                self._eta = stat("Time left")
                self._worked = stat("Worked")

    def show(self, line: JobLine) -> None:
        progress = line.progress
        self._name.set_text(progress.name)
        set_state(self._state, progress.state)
        ended, planned = line.trials
        share = 100 * ended / planned if planned else 0
        self._filled.style(f"width: {share:.1f}%")
        self._bar.classes(replace=f"bar state-{progress.state}")
        self._trials.set_text(f"{ended} / {planned}")
        self._gain.set_text(signed(line.gain[0]) if line.gain else "–")
        self._eta.set_text(duration(line.eta))
        self._worked.set_text(duration(line.worked))
