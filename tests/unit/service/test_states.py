"""Legal moves, and the job's state from its nodes'."""

from __future__ import annotations

import pytest

from service.db.states import (
    JOB_MOVES,
    NODE_MOVES,
    TRIAL_MOVES,
    JobState,
    NodeState,
    TrialState,
    check_move,
    job_state_of,
)
from service.errors import Conflict


def test_every_state_has_its_moves_written_down() -> None:
    assert set(JOB_MOVES) == set(JobState)
    assert set(NODE_MOVES) == set(NodeState)
    assert set(TRIAL_MOVES) == set(TrialState)


def test_an_illegal_move_names_the_thing_and_what_is_legal() -> None:
    with pytest.raises(
        Conflict, match=r"node 0 is failed and cannot become done; it can become cancelled, ready"
    ):
        check_move(NODE_MOVES, "node 0", NodeState.FAILED, NodeState.DONE)


@pytest.mark.parametrize("final", [NodeState.DONE, NodeState.CANCELLED])
def test_nothing_follows_a_final_state(final: NodeState) -> None:
    with pytest.raises(Conflict, match="nothing: it is final"):
        check_move(NODE_MOVES, "node 0", final, NodeState.READY)


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
