"""What happened to a job, newest first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from service.dashboard.layout import panel
from service.dashboard.snapshot import Topic
from service.dashboard.texts import clock, number
from service.db.records import EventRecord
from service.db.store import Store

SHOWN = 60
_Say = Callable[[Mapping[str, Any]], str]


def _node_state(data: Mapping[str, Any]) -> str:
    why = f": {data['reason']}" if data.get("reason") else ""
    old, new = (str(data.get(side)).replace("_", " ") for side in ("from", "to"))
    return f"{data.get('node')} {old} → {new}{why}"


def _trial(data: Mapping[str, Any]) -> str:
    kind = "" if data.get("kind") == "search" else f" ({str(data.get('kind')).replace('_', ' ')})"
    if data.get("score") is None:
        return f"trial {data.get('number')}{kind} failed: {data.get('reason')}"
    return f"trial {data.get('number')}{kind} scored {number(data['score'])}"


WORDS: Mapping[str, _Say] = {
    "job.created": lambda data: f"submitted with {data.get('nodes')} nodes",
    "job.state": lambda data: f"job {data.get('from')} → {data.get('to')}",
    "job.priority": lambda data: f"priority {data.get('from')} → {data.get('to')}",
    "job.leaves_added": lambda data: f"leaves added: {', '.join(map(str, data.get('leaves', [])))}",
    "node.state": _node_state,
    "node.notice": lambda data: f"{data.get('node')}: {data.get('text')}",
    "node.extended": lambda data: f"{data.get('node')} extended to {data.get('trials')} trials",
    "trial.done": _trial,
    "trial.failed": _trial,
}
"""Kinds of events that people read, and how they are said; those of single renders are left out."""


@dataclass(frozen=True)
class Happened:
    """The newest events of a job. nodes: id -> name."""

    events: list[EventRecord]
    nodes: dict[int, str]

    def line(self, event: EventRecord) -> str:
        """What happened, in words; of a trial, in which merge."""
        said = WORDS[event.kind](event.data)
        of_trial = event.kind.startswith("trial.") and event.node_id in self.nodes
        return f"{self.nodes[event.node_id]}: {said}" if of_trial and event.node_id is not None else said


def events_topic(job_id: str) -> Topic[Happened]:
    """The newest events of a job."""

    def read(store: Store) -> Happened:
        events = store.last_events(job_id, kinds=list(WORDS), limit=SHOWN)
        return Happened(events, {node.id: node.name for node in store.nodes(job_id)} if events else {})

    return Topic(("events", job_id), read, job_id=job_id)


class EventLog:
    """The log, with a line for every event."""

    def __init__(self, job_id: str) -> None:
        self._id = job_id
        self._list: ui.element | None = None
        self._newest = 0

    def show(self, happened: Happened) -> None:
        events = happened.events
        if self._list is None:
            with panel("What happened", note="Times are UTC.", classes="spaced"):
                self._list = (
                    ui.element("div").classes("log").props('role="log" aria-label="Events" tabindex="0"')
                )
        new = [event for event in events if event.id > self._newest]
        with self._list:
            for event in reversed(new):
                with ui.element("div").classes(f"log-line {_tone(event)}") as line:
                    ui.label(clock(event.at)).classes("soft num")
                    ui.label(happened.line(event)).classes("wrap")
                line.move(target_index=0)
        while len(self._list.default_slot.children) > SHOWN:
            self._list.remove(self._list.default_slot.children[-1])
        self._newest = max([self._newest, *(event.id for event in events)])


def _tone(event: EventRecord) -> str:
    to = event.data.get("to")
    if event.kind == "trial.failed" or to in ("failed", "export_failed"):
        return "bad"
    return "warn" if event.kind == "node.notice" or to == "paused" else "good" if to == "done" else ""
