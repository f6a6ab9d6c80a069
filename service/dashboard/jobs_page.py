"""The list of jobs: which run, how far they are, what they gained."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from service.dashboard.actions import ActionButtons
from service.dashboard.first_steps import show_first_steps
from service.dashboard.job_figures import JobFigures
from service.dashboard.job_topics import JobLine, jobs_topic
from service.dashboard.layout import empty, frame, panel, set_state, state_badge
from service.dashboard.live import follow

SHOWN = 30


@ui.page("/")
def jobs_page() -> None:
    with frame("Jobs", active="Jobs"):
        with ui.element("div").classes("head"):
            with ui.element("h1").classes("grow"):
                ui.label("Jobs")
            new_job_button()
        cards = JobCards()
        more = ui.element("div")

        def follow_more(count: int) -> None:
            more.clear()
            with more:
                follow(jobs_topic(count), lambda lines: cards.show(lines, more_than=count))

        cards.on_more = follow_more
        follow_more(SHOWN)


def new_job_button() -> None:
    ui.button("New job", icon="add", on_click=lambda: ui.navigate.to("/new"))


class JobCards:
    """A card for every job, changed in place."""

    def __init__(self) -> None:
        self._box = ui.element("div").classes("stack")
        self._cards: dict[str, JobCard] = {}
        self._order: list[str] | None = None
        self.on_more: Callable[[int], None] = lambda _count: None

    def show(self, lines: list[JobLine], *, more_than: int) -> None:
        """Show these jobs; with more_than of them there may be more to be asked for."""
        order = [line.progress.id for line in lines]
        if order != self._order:
            self._order, self._cards = order, {}
            self._box.clear()
            with self._box:
                if not lines:
                    self._welcome()
                for line in lines:
                    self._cards[line.progress.id] = JobCard(line.progress.id)
                if len(lines) >= more_than:
                    ui.button("Show older jobs", on_click=lambda: self.on_more(10 * more_than)).props("flat")
        for line in lines:
            self._cards[line.progress.id].show(line)

    def _welcome(self) -> None:
        with (
            panel(),
            empty(
                "No jobs yet",
                "A job turns a folder of checkpoints into one better checkpoint: it tries block weights, "
                "renders your prompts with each, and keeps what scores best.",
                "account_tree",
            ),
        ):
            show_first_steps()
            new_job_button()


class JobCard:
    """One job of the list."""

    def __init__(self, job_id: str) -> None:
        self._shown: JobLine | None = None
        with panel(classes="job"):
            with ui.element("div").classes("head tight"):
                with ui.element("h2").classes("grow wrap"):
                    self._name = ui.link("", f"/jobs/{job_id}")
                self._state = state_badge("queued")
                self._actions = ActionButtons(job_id, small=True)
            self._figures = JobFigures("Best gain")
            self._line = ui.label().classes("soft wrap small")

    def show(self, line: JobLine) -> None:
        if line is self._shown:
            return
        self._shown = line
        progress = line.progress
        self._name.set_text(progress.name)
        set_state(self._state, progress.state)
        self._actions.show(progress)
        self._figures.show(line)
        self._line.set_text(_now(line))


def _now(line: JobLine) -> str:
    """What it works on, or why it does not."""
    nodes = line.progress.nodes
    stopped = [f"{node.name}: {node.reason}" for node in nodes if node.reason and node.state != "done"]
    if stopped:
        return "; ".join(stopped)
    running = [node for node in nodes if node.state == "running"]
    if running:
        return "now: " + ", ".join(
            f"{node.name} = {node.a} + {node.b}" if node.kind == "merge" else node.name for node in running
        )
    if line.progress.state == "queued":
        return "waits for a worker"
    return " + ".join(line.progress.leaves)
