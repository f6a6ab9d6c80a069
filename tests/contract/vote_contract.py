"""The storage contract of votes: cast, taken back, counted, on every database."""

from __future__ import annotations

import pytest

from service.db.records import Judgement, Lease, Looks, NewRender, NewVote
from service.db.states import JobState, NodeState, TrialKind, TrialState, VoteOutcome
from service.db.store import Store
from service.errors import Conflict, LeaseLost, NotFound
from tests.contract.store_contract import SHA, leased, queued_and_leased, states

NODE = "01b"


def waiting_trials(
    store: Store, lease: Lease, *numbers: int, kind: TrialKind = TrialKind.SEARCH
) -> list[int]:
    """Trials with two renders each that wait for votes; their ids."""
    ids = []
    for number in numbers:
        trial = store.open_trial(lease, kind, number, {"IN00": number / 10})
        renders = [NewRender(probe, f"{number}{probe}" + SHA[2:], 0.1, {"clip": 0.2}) for probe in (0, 1)]
        store.add_renders(lease, trial.id, renders)
        store.park_trial(lease, trial.id, 2.0, {"render": 1.0})
        ids.append(trial.id)
    return ids


def a_vote(left: int, right: int, key: str = "one", outcome: VoteOutcome = VoteOutcome.LEFT) -> NewVote:
    """A vote on the first probe."""
    return NewVote(key, left, right, 0, outcome, "anna")


def judgements(scores: dict[int, float]) -> dict[int, Judgement]:
    """What counted votes say of trials by id."""
    return {
        trial: Judgement(score, {"human": score / 2}, Looks({"human": score / 2}))
        for trial, score in scores.items()
    }


class VoteContract:
    """A node that rests until people have voted, and what they said."""

    def test_a_trial_that_waits_has_no_score_and_has_not_ended(self, store: Store) -> None:
        lease = queued_and_leased(store)
        waiting_trials(store, lease, 0)
        (trial,) = store.trials(lease.node_id)
        assert (trial.state, trial.score, trial.ended_at) == (TrialState.WAITING, None, None)
        assert store.best_trial(lease.node_id) is None
        assert store.ended_trials(lease.node_id) == []
        assert store.trial_counts(lease.node_id) == {TrialState.WAITING: 1}

    def test_images_that_people_alone_judge_are_stored_without_numbers(self, store: Store) -> None:
        lease = queued_and_leased(store)
        trial = store.open_trial(lease, TrialKind.SEARCH, 0, {})
        store.add_renders(lease, trial.id, [NewRender(0, SHA, 0.1, {})])
        assert [render.scores for render in store.renders(trial.id)] == [{}]

    def test_a_node_that_waits_for_votes_is_no_workers(self, store: Store) -> None:
        lease = queued_and_leased(store)
        waiting_trials(store, lease, 0, 1)
        store.await_votes(lease, 2, "needs 2 votes")
        node = store.node(lease.node_id)
        assert (node.state, node.reason, node.votes_needed) == (NodeState.VOTING, "needs 2 votes", 2)
        assert node.lease_owner is None
        assert store.job(lease.job_id).state is JobState.VOTING
        assert store.lease_node("host:3:w", 30.0) is None
        assert [waiting.id for waiting in store.voting_nodes()] == [node.id]
        with pytest.raises(LeaseLost):
            store.heartbeat(lease)

    def test_the_last_vote_that_is_needed_makes_it_ready(self, store: Store) -> None:
        lease = queued_and_leased(store)
        one, other = waiting_trials(store, lease, 0, 1)
        store.await_votes(lease, 2, "needs 2 votes")
        store.cast_vote(lease.job_id, NODE, a_vote(one, other, "first"))
        assert states(store, lease.job_id) == {NODE: "voting"}
        store.cast_vote(lease.job_id, NODE, a_vote(one, other, "second"))
        assert states(store, lease.job_id) == {NODE: "ready"}
        assert store.voting_nodes() == []
        assert leased(store).number == 2

    def test_votes_that_came_before_the_node_rested_are_enough(self, store: Store) -> None:
        lease = queued_and_leased(store)
        one, other = waiting_trials(store, lease, 0, 1)
        store.cast_vote(lease.job_id, NODE, a_vote(one, other))
        store.await_votes(lease, 1, "needs 1 vote")
        assert states(store, lease.job_id) == {NODE: "ready"}

    def test_a_second_click_is_the_same_vote(self, store: Store) -> None:
        lease = queued_and_leased(store)
        one, other = waiting_trials(store, lease, 0, 1)
        first = store.cast_vote(lease.job_id, NODE, a_vote(one, other))
        again = store.cast_vote(lease.job_id, NODE, a_vote(one, other, outcome=VoteOutcome.RIGHT))
        assert again == first
        assert store.votes(lease.node_id) == [first]

    def test_a_vote_is_taken_back(self, store: Store) -> None:
        lease = queued_and_leased(store)
        one, other = waiting_trials(store, lease, 0, 1)
        store.await_votes(lease, 1, "needs 1 vote")
        store.cast_vote(lease.job_id, NODE, a_vote(one, other))
        store.withdraw_vote(lease.job_id, NODE, "one")
        assert store.votes(lease.node_id) == []
        assert states(store, lease.job_id) == {NODE: "voting"}, "one is missing again"
        with pytest.raises(NotFound, match="no vote 'one'"):
            store.withdraw_vote(lease.job_id, NODE, "one")

    def test_counted_votes_score_what_waited_and_what_was_done(self, store: Store) -> None:
        lease = queued_and_leased(store)
        one, other = waiting_trials(store, lease, 0, 1)
        vote = store.cast_vote(lease.job_id, NODE, a_vote(one, other))
        assert store.count_votes(lease, [vote.id], judgements({one: 0.5, other: -0.5}))
        assert [(t.state, t.score) for t in store.trials(lease.node_id)] == [
            (TrialState.DONE, 0.5),
            (TrialState.DONE, -0.5),
        ]
        assert store.renders(one)[1].scores == {"clip": 0.2, "human": 0.25}
        assert [v.counted for v in store.votes(lease.node_id)] == [1]
        (third,) = waiting_trials(store, lease, 2)
        late = store.cast_vote(lease.job_id, NODE, a_vote(one, third, "late"))
        assert store.count_votes(lease, [late.id], judgements({one: 0.7, other: -0.5, third: 0.9}))
        assert [t.score for t in store.trials(lease.node_id)] == [0.7, -0.5, 0.9], "all by all votes"
        assert store.renders(one)[0].scores == {"clip": 0.2, "human": 0.35}
        assert [v.counted for v in store.votes(lease.node_id)] == [1, 2]
        counted = [e.data["votes"] for e in store.events(lease.job_id) if e.kind == "votes.counted"]
        assert counted == [1, 1]

    def test_nothing_is_counted_when_the_votes_changed_meanwhile(self, store: Store) -> None:
        lease = queued_and_leased(store)
        one, other = waiting_trials(store, lease, 0, 1)
        vote = store.cast_vote(lease.job_id, NODE, a_vote(one, other))
        store.cast_vote(lease.job_id, NODE, a_vote(one, other, "late"))
        assert not store.count_votes(lease, [vote.id], judgements({one: 0.5, other: -0.5}))
        assert store.trial(one).state is TrialState.WAITING

    def test_a_worker_without_the_lease_counts_nothing(self, store: Store) -> None:
        lease = queued_and_leased(store)
        one, other = waiting_trials(store, lease, 0, 1)
        store.await_votes(lease, 1, "needs 1 vote")
        vote = store.cast_vote(lease.job_id, NODE, a_vote(one, other))
        leased(store)
        with pytest.raises(LeaseLost):
            store.count_votes(lease, [vote.id], judgements({one: 0.5}))

    def test_what_was_counted_is_not_taken_back_and_not_voted_on(self, store: Store) -> None:
        lease = queued_and_leased(store)
        one, other = waiting_trials(store, lease, 0, 1)
        vote = store.cast_vote(lease.job_id, NODE, a_vote(one, other))
        store.count_votes(lease, [vote.id], judgements({one: 0.5, other: -0.5}))
        with pytest.raises(Conflict, match="counted"):
            store.withdraw_vote(lease.job_id, NODE, "one")
        with pytest.raises(Conflict, match="waits for no votes"):
            store.cast_vote(lease.job_id, NODE, a_vote(one, other, "late"))

    def test_only_what_was_shown_side_by_side_is_compared(self, store: Store) -> None:
        lease = queued_and_leased(store)
        one, other = waiting_trials(store, lease, 0, 1)
        (apart,) = waiting_trials(store, lease, 0, kind=TrialKind.HELDOUT_A)
        missing = NewVote("k", one, other, 7, VoteOutcome.TIE, "anna")
        for vote in (a_vote(one, one), a_vote(one, 999), missing):
            with pytest.raises(Conflict, match="no two such images"):
                store.cast_vote(lease.job_id, NODE, vote)
        with pytest.raises(Conflict, match="held-out"):
            store.cast_vote(lease.job_id, NODE, a_vote(one, apart))
        with pytest.raises(NotFound, match="no node 'nope'"):
            store.cast_vote(lease.job_id, "nope", a_vote(one, other))

    def test_a_job_that_waits_for_votes_is_paused_resumed_and_cancelled(self, store: Store) -> None:
        lease = queued_and_leased(store)
        waiting_trials(store, lease, 0, 1)
        store.await_votes(lease, 1, "needs 1 vote")
        assert store.pause_job(lease.job_id).state is JobState.PAUSED
        assert store.resume_job(lease.job_id).state is JobState.QUEUED
        store.await_votes(leased(store), 1, "needs 1 vote")
        assert store.cancel_job(lease.job_id).state is JobState.CANCELLED
        assert {trial.state for trial in store.trials(lease.node_id)} == {TrialState.CANCELLED}
