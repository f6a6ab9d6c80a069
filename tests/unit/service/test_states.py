"""Legal moves, and the job's state from its nodes'."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest

from service.db.states import (
    JOB_MOVES,
    NODE_MOVES,
    RENDER_MOVES,
    TRIAL_MOVES,
    JobState,
    NodeState,
    RenderState,
    TrialState,
    check_move,
    job_state_of,
)
from service.errors import Conflict


def test_every_state_has_its_moves_written_down() -> None:
    assert set(JOB_MOVES) == set(JobState)
    assert set(NODE_MOVES) == set(NodeState)
    assert set(TRIAL_MOVES) == set(TrialState)
    assert set(RENDER_MOVES) == set(RenderState)


def test_an_illegal_move_names_the_thing_and_what_is_legal() -> None:
    with pytest.raises(
        Conflict, match=r"node 0 is failed and cannot become done; it can become cancelled, ready"
    ):
        check_move(NODE_MOVES, "node 0", NodeState.FAILED, NodeState.DONE)


def test_nothing_follows_a_cancelled_node_and_a_done_one_is_only_extended() -> None:
    with pytest.raises(Conflict, match="nothing: it is final"):
        check_move(NODE_MOVES, "node 0", NodeState.CANCELLED, NodeState.READY)
    with pytest.raises(Conflict, match="it can become ready"):
        check_move(NODE_MOVES, "node 0", NodeState.DONE, NodeState.RUNNING)


@pytest.mark.parametrize("others", list(combinations_with_replacement(NodeState, 2)), ids=str)
def test_every_legal_move_of_a_node_is_one_that_its_job_may_follow(
    others: tuple[NodeState, NodeState],
) -> None:
    for old, moves in NODE_MOVES.items():
        before = job_state_of([old, *others])
        for new in moves:
            after = job_state_of([new, *others])
            # A cancelled job is never worked on: its nodes move towards cancelled only.
            if before is not after and before is not JobState.CANCELLED:
                check_move(JOB_MOVES, f"job with {others}, {old} -> {new}", before, after)


@pytest.mark.parametrize(
    ("nodes", "job"),
    [
        ([NodeState.READY, NodeState.WAITING], JobState.QUEUED),
        ([NodeState.RUNNING, NodeState.FAILED], JobState.RUNNING),
        ([NodeState.DONE, NodeState.READY], JobState.QUEUED),
        ([NodeState.DONE, NodeState.DONE], JobState.DONE),
        ([NodeState.DONE, NodeState.EXPORT_FAILED], JobState.FAILED),
        ([NodeState.PAUSED, NodeState.WAITING], JobState.PAUSED),
        ([NodeState.CANCELLED, NodeState.DONE], JobState.CANCELLED),
    ],
)
def test_the_liveliest_node_decides_the_state_of_the_job(nodes: list[NodeState], job: JobState) -> None:
    assert job_state_of(nodes) is job
