"""The figures of a job: how far it is, what it gained, how long it takes."""

from __future__ import annotations

from nicegui import ui

from service.dashboard.job_topics import JobLine
from service.dashboard.layout import stat
from service.dashboard.texts import clock, signed
from service.durations import duration

GAIN = "The result above the best it has to beat: every leaf and their uniform merge."


class JobFigures:
    """A bar and a row of figures in this place, changed in place. gain: what the gain is called here."""

    def __init__(self, gain: str) -> None:
        self._bar = Bar()
        with ui.element("div").classes("stats"):
            self._trials = stat("Trials")
            self._gain = stat(gain, hint=GAIN)
            self._eta = stat("Time left", hint="At the pace so far.")
            self._worked = stat("Compute time", hint="Of all trials, on whatever rendered them.")
            self._renders = stat("Images")
            self._begun = stat("Submitted (UTC)")

    def show(self, line: JobLine) -> None:
        """Show how far it is by now."""
        ended, planned = line.trials
        self._bar.show(ended, planned, line.progress.state)
        self._trials.set_text(f"{ended} / {planned}")
        _show_gain(self._gain, line)
        self._eta.set_text(duration(line.eta))
        self._worked.set_text(duration(line.worked))
        self._renders.set_text(f"{sum(node.renders for node in line.progress.nodes):,}")
        self._begun.set_text(clock(line.progress.created_at))


class Bar:
    """How far something is."""

    def __init__(self) -> None:
        with ui.element("div").classes("bar") as self._bar:
            self._filled = ui.element("div")
        self._bar.props["role"] = "progressbar"
        self._bar.props["aria-label"] = "Trials"

    def show(self, ended: int, planned: int, state: str) -> None:
        share = 100 if state == "done" else 100 * ended / planned if planned else 0
        self._filled.style(f"width: {share:.1f}%")
        self._bar.classes(replace=f"bar state-{state}")
        self._bar.props["aria-valuenow"] = round(share)


def _show_gain(label: ui.label, line: JobLine) -> None:
    """A job's gain, green where it is one, with the probes it was measured on."""
    if line.gain is None:
        label.set_text("–")
        label.classes(replace="stat-value")
        return
    value, heldout = line.gain
    # A hyphen at which no line is broken.
    label.set_text(f"{signed(value)} " + ("held\u2011out" if heldout else "search"))
    label.classes(replace=f"stat-value {'good' if value > 0 else 'soft'}")
