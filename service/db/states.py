"""The states of jobs, nodes, trials and renders, and every legal move between them, in one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypeVar

from service.errors import Conflict


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    VOTING = "voting"  # until people have compared enough images
    PAUSED = "paused"
    FAILED = "failed"
    DONE = "done"
    CANCELLED = "cancelled"


class NodeKind(StrEnum):
    MERGE = "merge"  # A + B -> O, searched
    AVERAGE = "average"  # the uniform merge of all leaves, scored: what the tree has to beat
    SCREEN = "screen"  # one leaf alone, scored: the leaves' ranking
    COMPOSE = "compose"  # a leaf put together from components: its file is written, nothing is scored
    REFERENCE = "reference"  # one leaf alone, scored first: what several scorers are normalised by


class NodeState(StrEnum):
    WAITING = "waiting"  # for what it merges
    READY = "ready"
    RUNNING = "running"
    VOTING = "voting"  # rendered, and no worker's until people have voted
    PAUSED = "paused"
    EXPORT_FAILED = "export_failed"  # all else is done, only the file is missing
    FAILED = "failed"
    DONE = "done"
    CANCELLED = "cancelled"


class TrialState(StrEnum):
    OPEN = "open"
    WAITING = "waiting"  # rendered, for votes
    DONE = "done"
    STOPPED = "stopped"  # by racing or its draft, before all probes were rendered: an estimate, no score
    FAILED = "failed"
    CANCELLED = "cancelled"


class RenderState(StrEnum):
    STORED = "stored"
    COLLECTED = "collected"  # its scores are kept, its image was given up


class TrialKind(StrEnum):
    SEARCH = "search"
    DRAFT = "draft"  # of the search trial of the same number: fewer steps, or smaller
    HELDOUT_A = "heldout_a"
    HELDOUT_B = "heldout_b"
    HELDOUT_UNIFORM = "heldout_uniform"
    HELDOUT_WINNER = "heldout_winner"


class VoteOutcome(StrEnum):
    """Which of two images is better."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"


HELDOUT_KINDS = (
    TrialKind.HELDOUT_A,
    TrialKind.HELDOUT_B,
    TrialKind.HELDOUT_UNIFORM,
    TrialKind.HELDOUT_WINNER,
)

JOB_MOVES: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset(
        {JobState.RUNNING, JobState.VOTING, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.RUNNING: frozenset(
        {
            JobState.QUEUED,
            JobState.VOTING,
            JobState.PAUSED,
            JobState.FAILED,
            JobState.DONE,
            JobState.CANCELLED,
        }
    ),
    JobState.VOTING: frozenset(
        {JobState.QUEUED, JobState.RUNNING, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.PAUSED: frozenset(
        {JobState.QUEUED, JobState.RUNNING, JobState.VOTING, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.FAILED: frozenset(
        {JobState.QUEUED, JobState.RUNNING, JobState.VOTING, JobState.PAUSED, JobState.CANCELLED}
    ),
    JobState.DONE: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset(),
}

NODE_MOVES: Mapping[NodeState, frozenset[NodeState]] = {
    NodeState.WAITING: frozenset({NodeState.READY, NodeState.PAUSED, NodeState.CANCELLED}),
    NodeState.READY: frozenset(
        {
            NodeState.RUNNING,
            NodeState.WAITING,
            NodeState.VOTING,  # the vote that was missing is taken back
            NodeState.PAUSED,
            NodeState.CANCELLED,
        }
    ),
    NodeState.RUNNING: frozenset(
        {
            NodeState.READY,
            NodeState.VOTING,
            NodeState.PAUSED,
            NodeState.EXPORT_FAILED,
            NodeState.FAILED,
            NodeState.DONE,
            NodeState.CANCELLED,
        }
    ),
    NodeState.VOTING: frozenset({NodeState.READY, NodeState.PAUSED, NodeState.CANCELLED}),
    NodeState.PAUSED: frozenset({NodeState.READY, NodeState.WAITING, NodeState.CANCELLED}),
    NodeState.EXPORT_FAILED: frozenset({NodeState.READY, NodeState.CANCELLED}),
    NodeState.FAILED: frozenset({NodeState.READY, NodeState.CANCELLED}),
    NodeState.DONE: frozenset({NodeState.READY}),  # extended by more trials
    NodeState.CANCELLED: frozenset(),
}

TRIAL_MOVES: Mapping[TrialState, frozenset[TrialState]] = {
    TrialState.OPEN: frozenset(
        {
            TrialState.WAITING,
            TrialState.DONE,
            TrialState.STOPPED,
            TrialState.FAILED,
            TrialState.CANCELLED,
        }
    ),
    TrialState.WAITING: frozenset({TrialState.DONE, TrialState.CANCELLED}),
    TrialState.DONE: frozenset(),
    TrialState.STOPPED: frozenset(),
    TrialState.FAILED: frozenset(),
    TrialState.CANCELLED: frozenset(),
}

TRIAL_ENDED = (TrialState.DONE, TrialState.FAILED, TrialState.STOPPED)
"""States of a trial that counts in the search."""

RENDER_MOVES: Mapping[RenderState, frozenset[RenderState]] = {
    RenderState.STORED: frozenset({RenderState.COLLECTED}),
    RenderState.COLLECTED: frozenset({RenderState.STORED}),
}

JOB_FINAL = frozenset({JobState.DONE, JobState.CANCELLED})
JOB_AT_REST = JOB_FINAL | {JobState.FAILED, JobState.PAUSED}
"""States in which nothing more happens until a person acts."""

NODE_FINAL = frozenset({NodeState.DONE, NodeState.CANCELLED})
NODE_GOING = frozenset({NodeState.WAITING, NodeState.READY, NodeState.RUNNING, NodeState.VOTING})
NODE_RETRIABLE = frozenset({NodeState.PAUSED, NodeState.EXPORT_FAILED, NodeState.FAILED})


State = TypeVar("State", bound=StrEnum)


def check_move(moves: Mapping[State, frozenset[State]], what: str, old: State, new: State) -> None:
    """Raise Conflict unless `what` may go from `old` to `new`."""
    if new not in moves[old]:
        legal = ", ".join(sorted(moves[old])) or "nothing: it is final"
        raise Conflict(f"{what} is {old.value} and cannot become {new.value}; it can become {legal}")


_LIVELIEST: Mapping[NodeState, JobState] = {
    NodeState.RUNNING: JobState.RUNNING,
    NodeState.READY: JobState.QUEUED,
    NodeState.VOTING: JobState.VOTING,
    NodeState.FAILED: JobState.FAILED,
    NodeState.EXPORT_FAILED: JobState.FAILED,
    NodeState.PAUSED: JobState.PAUSED,
    NodeState.CANCELLED: JobState.CANCELLED,
    NodeState.WAITING: JobState.QUEUED,
}
"""What a job is when it has a node in a state and none in a state before."""


def job_state_of(nodes: Iterable[NodeState]) -> JobState:
    """The state of a job, from the states of its nodes: the liveliest of them decides."""
    present = set(nodes)
    return next((job for node, job in _LIVELIEST.items() if node in present), JobState.DONE)
