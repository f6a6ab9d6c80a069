"""Routes of the blind vote: which two images next, what somebody says of them, and how many are missing.

Nothing that a voter is shown tells which trial is which: images are named by their content, sides are
shuffled.
"""

from __future__ import annotations

import random
import secrets
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from scoring.prompts.plain import plain_text
from service.api.context import Context, Ctx
from service.api.problems import responses
from service.db.records import NewVote, NodeRecord
from service.db.states import NodeState, TrialKind, VoteOutcome
from service.errors import Conflict
from service.jobs import NodePlan
from service.nodes import head_of, node_of
from service.votes.ballot import Ballot, Pair, open_ballot

router = APIRouter(prefix="/api/v1", tags=["votes"])
NOBODY = "somebody"
Voter = Annotated[
    str,
    Field(min_length=1, max_length=100, description="Who votes: people are not shown a pair twice."),
]
_KEY = r"^[A-Za-z0-9_-]{8,64}$"
_SHA256 = r"^[0-9a-f]{64}$"


class Voting(BaseModel):
    """A merge that people judge, and the votes that it waits for."""

    job: str = Field(description="Id of the job.")
    job_name: str
    node: str
    waits: bool = Field(description="Whether it rests until there are votes.")
    phase: str = Field(description="search or heldout: which images are compared.")
    needed: int = Field(description="Votes that the present round needs.")
    there: int = Field(description="Votes of this round by now.")
    trials_waiting: int = Field(description="Trials without a score.")
    total: int = Field(description="All votes on the merge so far.")


class PairView(BaseModel):
    """Two images of the same prompt and seed. A vote on it names `key`, `probe`, `left` and `right`."""

    key: str = Field(description="Names this comparison: a second vote under it counts as the same one.")
    probe: int
    prompt: str = Field(description="What the images were to show, without syntax.")
    left: str = Field(description="sha256 of the image on the left.")
    right: str
    left_image: str = Field(description="Path of the PNG on this server.")
    right_image: str


class NextPairs(BaseModel):
    """What to compare next."""

    pairs: list[PairView] = Field(description="Empty where nothing waits.")
    voting: Voting


class CastVote(BaseModel):
    """What somebody says of a pair."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "key": "c0ffee00c0ffee00",
                    "probe": 0,
                    "left": "a" * 64,
                    "right": "b" * 64,
                    "outcome": "left",
                }
            ]
        },
    )

    key: str = Field(pattern=_KEY, description="As the pair gave it, or another random one.")
    probe: int = Field(ge=0)
    left: str = Field(pattern=_SHA256)
    right: str = Field(pattern=_SHA256)
    outcome: VoteOutcome = Field(description="left or right: that one is better; tie: neither is.")
    voter: Voter = NOBODY


class StandingView(BaseModel):
    """Where a trial stands by all votes so far."""

    trial: int
    kind: TrialKind
    number: int
    score: float = Field(description="Logits above the uniform merge: 1 is a preference of 73 %.")
    error: float = Field(description="Standard error of the score.")
    votes: int = Field(description="Votes that showed one of its images.")


@router.get("/votes", summary="What waits for votes")
def waiting(context: Ctx) -> list[Voting]:
    """Merges that rest until people have voted, the longest waiting job first."""
    return [_voting(context, node) for node in context.store.voting_nodes()]


@router.get(
    "/jobs/{job_id}/nodes/{node}/votes", summary="How many votes are missing", responses=responses(404)
)
def voting(job_id: str, node: str, context: Ctx) -> Voting:
    """The votes that a merge needs now, and those that are there."""
    return _voting(context, node_of(context.store, job_id, node))


@router.get(
    "/jobs/{job_id}/nodes/{node}/votes/next", summary="Two images to compare", responses=responses(404)
)
def next_pairs(
    job_id: str,
    node: str,
    context: Ctx,
    voter: Annotated[str, Query(min_length=1, max_length=100)] = NOBODY,
    count: Annotated[int, Query(ge=1, le=8, description="Pairs at most, to load images ahead.")] = 1,
) -> NextPairs:
    """The comparisons that tell most now: of trials of which little is known and that are close."""
    record = node_of(context.store, job_id, node)
    ballot = open_ballot(context.store, record.id) if record.state is NodeState.VOTING else None
    pairs = [] if ballot is None else ballot.next_pairs(voter, count, random.Random())
    plan = NodePlan.model_validate(record.plan)
    probes = plan.heldout if ballot is not None and _is_heldout(ballot) else plan.probes
    views = [
        _pair_view(pair, plain_text(probes[pair.probe].prompt, probes[pair.probe].steps)) for pair in pairs
    ]
    return NextPairs(pairs=views, voting=_voting(context, record))


@router.post(
    "/jobs/{job_id}/nodes/{node}/votes",
    status_code=201,
    summary="Vote on two images",
    responses=responses(404, 409, 422),
)
def cast(job_id: str, node: str, body: CastVote, context: Ctx) -> Voting:
    """Keep a vote. The same key again casts nothing; 409 when these images wait for no votes any more."""
    record = head_of(context.store, job_id, node)
    # A second click may come once the vote is counted, and nothing waits any more.
    if not any(vote.key == body.key for vote in context.store.votes(record.id)):
        ballot = open_ballot(context.store, record.id)
        left, right = (_trial_of(ballot, body.probe, sha256) for sha256 in (body.left, body.right))
        vote = NewVote(body.key, left, right, body.probe, body.outcome, body.voter)
        context.store.cast_vote(job_id, record.name, vote)
    return _voting(context, context.store.node(record.id))


@router.delete(
    "/jobs/{job_id}/nodes/{node}/votes/{key}",
    summary="Take a vote back",
    responses=responses(404, 409),
)
def withdraw(job_id: str, node: str, key: str, context: Ctx) -> Voting:
    """Take a vote back, until it is counted."""
    record = head_of(context.store, job_id, node)
    context.store.withdraw_vote(job_id, record.name, key)
    return _voting(context, context.store.node(record.id))


@router.get(
    "/jobs/{job_id}/nodes/{node}/standings", summary="Trials by their votes", responses=responses(404)
)
def standings(job_id: str, node: str, context: Ctx) -> list[StandingView]:
    """Every trial that waits for votes or had them, with its score by all votes so far: the best first.

    Whoever votes should not look here.
    """
    ballot = open_ballot(context.store, head_of(context.store, job_id, node).id)
    if ballot is None:
        return []
    found = ballot.standings()
    views = [
        StandingView(
            trial=trial.id,
            kind=trial.kind,
            number=trial.number,
            score=found[trial.id].score,
            error=found[trial.id].error,
            votes=found[trial.id].votes,
        )
        for trial in ballot.trials
    ]
    return sorted(views, key=lambda view: -view.score)


def _voting(context: Context, node: NodeRecord) -> Voting:
    ballot = open_ballot(context.store, node.id)
    votes = context.store.votes(node.id)
    waits = node.state is NodeState.VOTING
    return Voting(
        job=node.job_id,
        job_name=context.store.job(node.job_id).name,
        node=node.name,
        waits=waits,
        phase="heldout" if ballot is not None and _is_heldout(ballot) else "search",
        needed=(node.votes_needed or 0) if waits else 0,
        there=sum(vote.counted is None for vote in votes),
        trials_waiting=0 if ballot is None else len(ballot.waiting),
        total=len(votes),
    )


def _is_heldout(ballot: Ballot) -> bool:
    return any(trial.kind is not TrialKind.SEARCH for trial in ballot.trials)


def _pair_view(pair: Pair, prompt: str) -> PairView:
    return PairView(
        key=secrets.token_hex(8),
        probe=pair.probe,
        prompt=prompt,
        left=pair.left_image,
        right=pair.right_image,
        left_image=f"/api/v1/images/{pair.left_image}.png",
        right_image=f"/api/v1/images/{pair.right_image}.png",
    )


def _trial_of(ballot: Ballot | None, probe: int, sha256: str) -> int:
    """The trial whose image of a probe this is. Raises Conflict."""
    found = None if ballot is None else ballot.trial_showing(probe, sha256)
    if found is None:
        raise Conflict(
            f"image {sha256[:12]}… of probe {probe} waits for no votes (any more); ask for the next pair"
        )
    return found
