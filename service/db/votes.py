"""Votes in the store: cast, taken back, counted; and the nodes that wait for them.

A vote takes part in nothing until a worker that holds the node's lease counts it: then the scores of all
trials of its phase are written anew, in one transaction. So what a search was told stays what it was told,
and a vote that was counted can't be taken back.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Select, func, insert, select, update
from sqlalchemy.orm import Session

from service.db.database import Database, job_of, leased_node, move_node, move_trial, record
from service.db.jobs import node_named
from service.db.models import Node, Render, Score, Trial, Vote
from service.db.records import Judgement, Lease, NewVote, NodeRecord, VoteRecord
from service.db.states import NodeState, TrialKind, TrialState
from service.errors import Conflict, NotFound


class VoteStore(Database):
    """The storage contract of people's votes."""

    def await_votes(self, lease: Lease, needed: int, reason: str) -> None:
        """Let the node rest until it has `needed` votes that are not counted yet; ready where it has them.

        Raises LeaseLost.
        """
        with self._write() as session:
            node = leased_node(session, lease)
            node.votes_needed = needed
            enough = _uncounted(session, node.id) >= needed
            move_node(
                session, node, NodeState.READY if enough else NodeState.VOTING, None if enough else reason
            )

    def cast_vote(self, job_id: str, node_name: str, vote: NewVote) -> VoteRecord:
        """Keep a vote; the last one that a node waits for makes it ready. A key that is known casts nothing.

        Returns the vote as it is kept. Raises NotFound for an unknown job or node, and Conflict for trials
        that do not wait for votes (they were counted meanwhile, or the job is over), or can't be compared.
        """
        with self._write() as session:
            node = node_named(job_of(session, job_id), node_name)
            known = session.scalars(_vote(node.id, vote.key)).one_or_none()
            if known is not None:
                return VoteRecord.model_validate(known)
            _check_compared(session, node, vote)
            row = Vote(
                node_id=node.id,
                key=vote.key,
                left_trial_id=vote.left_trial_id,
                right_trial_id=vote.right_trial_id,
                probe=vote.probe,
                outcome=vote.outcome,
                voter=vote.voter,
                at=time.time(),
            )
            session.add(row)
            session.flush()
            there = _record_votes(session, node, "vote.cast")
            if node.state is NodeState.VOTING and there >= (node.votes_needed or 0):
                move_node(session, node, NodeState.READY)
            return VoteRecord.model_validate(row)

    def withdraw_vote(self, job_id: str, node_name: str, key: str) -> None:
        """Take a vote back. Raises NotFound where there is none, Conflict once it was counted."""
        with self._write() as session:
            node = node_named(job_of(session, job_id), node_name)
            vote = session.scalars(_vote(node.id, key)).one_or_none()
            if vote is None or vote.withdrawn:
                raise NotFound(f"there is no vote {key!r} on node {node_name} of job {job_id}")
            if vote.counted is not None:
                raise Conflict("that vote was counted: the search went on with it and can't go back")
            vote.withdrawn = True
            session.flush()
            there = _record_votes(session, node, "vote.withdrawn")
            if node.state is NodeState.READY and there < (node.votes_needed or 0):
                move_node(session, node, NodeState.VOTING, f"needs {node.votes_needed} votes: open /vote")

    def votes(self, node_id: int) -> list[VoteRecord]:
        """The votes on a node, without those that were taken back, in their order."""
        with self._read() as session:
            return [VoteRecord.model_validate(vote) for vote in session.scalars(_votes(node_id))]

    def uncounted_votes(self, node_id: int) -> int:
        """How many votes on a node are not counted yet."""
        with self._read() as session:
            return _uncounted(session, node_id)

    def count_votes(self, lease: Lease, votes: Collection[int], judged: Mapping[int, Judgement]) -> bool:
        """Give trials their scores by these votes (ids), all that are not counted yet; they are counted now.

        judged: trial id -> what it is worth; trials that waited are done. False, and nothing is changed, when
        other votes are there by now. Raises LeaseLost.
        """
        with self._write() as session:
            node = leased_node(session, lease)
            present = session.scalars(_votes(node.id).where(Vote.counted.is_(None))).all()
            if {vote.id for vote in present} != set(votes):
                return False
            count = (session.scalar(select(func.max(Vote.counted)).where(Vote.node_id == node.id)) or 0) + 1
            for vote in present:
                vote.counted = count
            for trial in session.scalars(select(Trial).where(Trial.id.in_(judged)).order_by(Trial.id)):
                _judge(session, node, trial, judged[trial.id])
            node.votes_needed = None
            data = {"node": node.name, "position": node.position, "count": count, "votes": len(present)}
            record(session, node.job_id, "votes.counted", {**data, "trials": len(judged)}, node.id)
            return True

    def voting_nodes(self) -> list[NodeRecord]:
        """All nodes that wait for votes, the longest waiting job first."""
        waiting = select(Node).where(Node.state == NodeState.VOTING).order_by(Node.created_at, Node.id)
        with self._read() as session:
            return [NodeRecord.model_validate(node) for node in session.scalars(waiting)]


def _vote(node_id: int, key: str) -> Select[Vote]:
    return select(Vote).where(Vote.node_id == node_id, Vote.key == key)


def _votes(node_id: int) -> Select[Vote]:
    return select(Vote).where(Vote.node_id == node_id, Vote.withdrawn.is_(False)).order_by(Vote.id)


def _uncounted(session: Session, node_id: int) -> int:
    wanted = select(func.count()).where(
        Vote.node_id == node_id, Vote.withdrawn.is_(False), Vote.counted.is_(None)
    )
    return session.scalar(wanted) or 0


def _record_votes(session: Session, node: Node, kind: str) -> int:
    """Record an event of this kind; how many votes are there."""
    there = _uncounted(session, node.id)
    data = {"node": node.name, "position": node.position, "there": there, "needed": node.votes_needed}
    record(session, node.job_id, kind, data, node.id)
    return there


def _check_compared(session: Session, node: Node, vote: NewVote) -> None:
    asked = {vote.left_trial_id, vote.right_trial_id}
    found = session.scalars(select(Trial).where(Trial.id.in_(asked), Trial.node_id == node.id)).all()
    shown = session.scalars(
        select(Render.trial_id).where(Render.trial_id.in_(asked), Render.probe == vote.probe)
    ).all()
    if len(found) != 2 or len(shown) != 2:
        raise Conflict(f"node {node.name} of job {node.job_id} has no two such images of probe {vote.probe}")
    heldout = {trial.kind is not TrialKind.SEARCH for trial in found}
    if len(heldout) != 1:
        raise Conflict("a trial of the search can't be compared with one on held-out probes")
    kinds = [TrialKind.SEARCH] if heldout == {False} else [k for k in TrialKind if k is not TrialKind.SEARCH]
    waiting = select(Trial.id).where(
        Trial.node_id == node.id, Trial.kind.in_(kinds), Trial.state == TrialState.WAITING
    )
    if session.scalar(waiting.limit(1)) is None:
        raise Conflict(
            f"node {node.name} of job {node.job_id} waits for no votes on these images any more; ask for the "
            "next pair"
        )


def _judge(session: Session, node: Node, trial: Trial, judgement: Judgement) -> None:
    looks = judgement.looks
    trial.score, trial.means = judgement.score, dict(looks.means) or None
    trial.warnings = list(looks.warnings) or None
    if trial.state is TrialState.WAITING:
        move_trial(trial, TrialState.DONE)
        data = {"kind": trial.kind, "number": trial.number, "score": trial.score, "reason": None}
        record(session, node.job_id, f"trial.{trial.state}", data, node.id)
    _write_numbers(session, trial.id, judgement.numbers)


def _write_numbers(session: Session, trial_id: int, numbers: Mapping[str, float]) -> None:
    renders: Sequence[int] = session.scalars(select(Render.id).where(Render.trial_id == trial_id)).all()
    for scorer, value in numbers.items():
        known = select(Score.render_id).where(Score.scorer == scorer, Score.render_id.in_(renders))
        if session.scalar(known.limit(1)) is not None:
            session.execute(
                update(Score).where(Score.scorer == scorer, Score.render_id.in_(renders)).values(value=value)
            )
            continue
        rows = [{"render_id": render, "scorer": scorer, "value": value} for render in renders]
        session.execute(insert(Score), rows)
