"""What a job leaves behind, as far as it must not depend on what happened on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer.checkpoints import sha256_of
from service.db.records import EventRecord
from service.db.states import JobState
from service.db.store import Store
from service.settings import Settings

TEMPORARIES = (".tmp", ".partial")


@dataclass(frozen=True)
class Outcome:
    """Everything of a finished job that is the same for every run of the same request.

    trials: (node, kind, number) -> state, weights, score, what racing expected, and every probe's image with
    its scores.
    nodes: name -> what the node is worth. files: name of an output -> sha256 of the file on the disk.
    """

    state: JobState
    trials: dict[tuple[str, str, int], tuple[Any, ...]]
    nodes: dict[str, float | None]
    files: dict[str, str]

    @property
    def renders(self) -> int:
        """How many renders are stored."""
        return sum(len(renders) for *_, renders in self.trials.values())


def outcome_of(settings: Settings, store: Store, job_id: str) -> Outcome:
    """The outcome of a job; its trials are numbered by node name, as other jobs of the request have them."""
    nodes = store.nodes(job_id)
    trials = {
        (node.name, trial.kind.value, trial.number): (
            trial.state,
            trial.weights,
            trial.score,
            (trial.estimate, trial.standard_error, trial.probes_seen),
            [(render.probe, render.sha256, render.scores) for render in store.renders(trial.id)],
        )
        for node in nodes
        for trial in store.trials(node.id)
    }
    files = {path.name: sha256_of(path) for path in sorted(settings.outputs_dir.glob("*.safetensors"))}
    scores = {node.name: node.score for node in nodes}
    return Outcome(store.job(job_id).state, trials, scores, files)


def counted_twice(store: Store, job_id: str) -> list[tuple[Any, ...]]:
    """Trials that ended and renders that were stored more than once, by the job's events."""
    seen: Counter[tuple[Any, ...]] = Counter()
    for event in all_events(store, job_id):
        if event.kind in ("trial.done", "trial.failed", "trial.stopped"):
            seen[(event.node_id, event.data["kind"], event.data["number"])] += 1
        elif event.kind == "render.stored":
            seen.update((event.data["trial"], probe) for probe in event.data["probes"])
    return [what for what, times in seen.items() if times > 1]


def all_events(store: Store, job_id: str) -> Iterator[EventRecord]:
    """Every event of a job, in order."""
    after = 0
    while events := store.events(job_id, after=after):
        yield from events
        after = events[-1].id


def left_over(folder: Path) -> list[str]:
    """Files that were being written and are nobody's any more."""
    written = (path for path in folder.rglob("*") if path.is_file() and path.suffix in TEMPORARIES)
    return [str(path.relative_to(folder)) for path in written]
