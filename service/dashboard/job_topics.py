"""What the pages read of jobs, each once for all browsers."""

from __future__ import annotations

from dataclasses import dataclass

from service.dashboard.snapshot import Topic
from service.db.records import NodeRecord
from service.db.states import NODE_FINAL, NodeState
from service.db.store import Store
from service.progress import JobProgress
from service.recent_progress import recent_progress


@dataclass(frozen=True)
class JobLine:
    """A job as the list shows it. worked: seconds of all its trials; eta: seconds left at the pace so far."""

    progress: JobProgress
    worked: float
    eta: float | None

    @property
    def trials(self) -> tuple[int, int]:
        """(ended, planned) over all nodes; a node that is over has no trials left."""
        nodes = self.progress.nodes
        ended = sum(node.trials_done + node.trials_stopped + node.trials_failed for node in nodes)
        left = sum(
            max(0, node.trials_planned - node.trials_done - node.trials_failed)
            for node in nodes
            if node.state not in NODE_FINAL
        )
        return ended, ended + left

    @property
    def gain(self) -> tuple[float, bool] | None:
        """(gain of the result over all it has to beat, whether on held-out probes), as far as known."""
        result = self.progress.result
        if result.heldout_gain is not None:
            return result.heldout_gain, True
        if result.gain is not None:
            return result.gain, False
        known = [node.gain for node in self.progress.nodes if node.gain is not None]
        return (max(known), False) if known else None


class JobLines:
    """Reads the newest jobs; of each again only what changed since the last time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[str, tuple[int, JobLine]] = {}

    def __call__(self, store: Store) -> list[JobLine]:
        lines: dict[str, tuple[int, JobLine]] = {}
        for job_id, newest in store.newest_jobs(self._limit):
            known = self._known.get(job_id)
            fresh = known is not None and known[0] == newest
            lines[job_id] = known if known and fresh else (newest, job_line(store, job_id))
        self._known = lines
        return [line for _, line in lines.values()]


def job_line(store: Store, job_id: str) -> JobLine:
    """One job as the list shows it. Raises NotFound."""
    progress = recent_progress(store, job_id).progress
    worked = sum(store.worked_seconds(job_id).values())
    line = JobLine(progress, worked, None)
    ended, planned = line.trials
    running = sum(node.state is NodeState.RUNNING for node in progress.nodes)
    eta = worked / ended * (planned - ended) / running if running and ended and worked else None
    return JobLine(progress, worked, eta)


def jobs_topic(limit: int) -> Topic[list[JobLine]]:
    """The newest jobs."""
    return Topic(("jobs", limit), JobLines(limit))


@dataclass(frozen=True)
class JobView:
    """A job as its own page shows it. nodes: as they lie in the tree."""

    line: JobLine
    nodes: list[NodeRecord]


def job_topic(job_id: str) -> Topic[JobView]:
    """One job."""

    def read(store: Store) -> JobView:
        return JobView(job_line(store, job_id), store.nodes(job_id))

    return Topic(("job", job_id), read, job_id=job_id)
