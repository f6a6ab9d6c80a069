"""One job: its tree, its result, what happened."""

from __future__ import annotations

from nicegui import ui

from service.dashboard.job_topics import JobLine, job_topic
from service.dashboard.layout import frame
from service.dashboard.live import follow


@ui.page("/jobs/{job_id}")
def job_page(job_id: str) -> None:
    with frame("Job", active="Jobs", trail=(("Jobs", "/"),)):
        title = ui.label()

        def show(line: JobLine) -> None:
            title.set_text(line.progress.name)

        follow(job_topic(job_id), show)
