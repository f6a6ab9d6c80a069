"""Which two images are compared next, and where the trials stand."""

from __future__ import annotations

import random
from datetime import UTC, datetime

from service.db.records import RenderRecord, TrialRecord, VoteRecord
from service.db.states import RenderState, TrialKind, TrialState, VoteOutcome
from service.jobs import VoteSettings
from service.votes.ballot import Ballot, Pair
from service.votes.run import votes_needed

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def a_trial(number: int, state: TrialState = TrialState.WAITING) -> TrialRecord:
    """A search trial whose id is 100 above its number."""
    return TrialRecord(
        id=100 + number,
        node_id=1,
        kind=TrialKind.SEARCH,
        number=number,
        state=state,
        weights={},
        choices=None,
        slopes=None,
        score=None,
        may_win=True,
        estimate=None,
        standard_error=None,
        probes_seen=None,
        probe_noise=None,
        reason=None,
        seconds=None,
        timings=None,
        means=None,
        warnings=None,
        created_at=NOW,
        ended_at=None,
    )


def a_render(probe: int, image: str, state: RenderState = RenderState.STORED) -> RenderRecord:
    return RenderRecord(probe=probe, sha256=image, seconds=0.1, state=state, scores={})


def a_vote(number: int, left: int, right: int, outcome: str = "left", voter: str = "anna") -> VoteRecord:
    """A vote on probe 0 of trials by their numbers."""
    return VoteRecord(
        id=number,
        node_id=1,
        key=f"{number}",
        left_trial_id=100 + left,
        right_trial_id=100 + right,
        probe=0,
        outcome=VoteOutcome(outcome),
        voter=voter,
        counted=None,
        at=NOW,
    )


def ballot_of(pictures: list[list[str]], votes: list[VoteRecord] | None = None) -> Ballot:
    """Trials by the images of their probes."""
    renders = {
        100 + number: [a_render(probe, image) for probe, image in enumerate(images)]
        for number, images in enumerate(pictures)
    }
    return Ballot([a_trial(number) for number in range(len(pictures))], renders, votes or [])


FOUR = [["a0", "a1"], ["b0", "b1"], ["u0", "u1"], ["x0", "x1"]]


def shown(pairs: list[Pair]) -> list[set[int]]:
    return [{pair.left - 100, pair.right - 100} for pair in pairs]


def test_the_uniform_merge_is_zero_and_a_winner_above_it() -> None:
    standings = ballot_of(
        FOUR, [a_vote(1, 3, 2), a_vote(2, 2, 3, "right"), a_vote(3, 0, 2, "right")]
    ).standings()
    assert (standings[102].score, standings[102].error) == (0.0, 0.0)
    assert standings[103].score > 0 > standings[100].score
    assert (standings[103].votes, standings[101].votes) == (2, 0)
    assert standings[101].error > standings[103].error, "nobody has seen it"


def test_pairs_are_two_different_images_of_one_probe() -> None:
    for seed in range(20):
        for pair in ballot_of(FOUR).next_pairs("anna", 3, random.Random(seed)):
            assert pair.left_image == FOUR[pair.left - 100][pair.probe]
            assert pair.right_image == FOUR[pair.right - 100][pair.probe]


def test_sides_are_shuffled() -> None:
    sides = {ballot_of(FOUR[:2]).next_pairs("anna", 1, random.Random(seed))[0].left for seed in range(20)}
    assert sides == {100, 101}


def test_who_was_never_compared_comes_first() -> None:
    votes = [a_vote(n, *pair) for n, pair in enumerate([(0, 1), (1, 2), (2, 0)] * 3)]
    for seed in range(10):
        assert 3 in shown(ballot_of(FOUR, votes).next_pairs("ben", 1, random.Random(seed)))[0]


def test_nobody_is_shown_a_pair_again_while_there_are_others() -> None:
    votes = [a_vote(1, 0, 1)]
    two = [["a0", "a1"], ["b0", "b1"]]
    assert ballot_of(two, votes).next_pairs("anna", 1, random.Random(0))[0].probe == 1
    one = [["a0"], ["b0"]]
    assert shown(ballot_of(one, votes).next_pairs("anna", 1, random.Random(0))) == [{0, 1}]


def test_the_same_pictures_are_one_contestant() -> None:
    ballot = ballot_of([["a0"], ["a0"], ["u0"]], [a_vote(1, 0, 2)])
    standings = ballot.standings()
    assert standings[100] == standings[101]
    assert shown(ballot.next_pairs("ben", 5, random.Random(0))) == [{0, 2}]
    assert not ballot_of([["a0"], ["a0"]]).comparable


def test_images_that_were_given_up_are_not_shown() -> None:
    gone = [a_render(0, "a0", RenderState.COLLECTED)]
    ballot = Ballot([a_trial(0), a_trial(1)], {100: gone, 101: [a_render(0, "b0")]}, [])
    assert ballot.next_pairs("anna", 1, random.Random(0)) == []


def test_a_short_round_needs_its_share_of_votes() -> None:
    settings = VoteSettings(trials=8, votes=24, heldout=10)
    assert votes_needed(settings, ballot_of(FOUR), heldout=False) == 12
    assert votes_needed(settings, ballot_of(FOUR), heldout=True) == 10
    assert votes_needed(settings, ballot_of(FOUR[:1]), heldout=False) == 0, "nothing to compare it with"
