"""What is done with a job's trials once they are there: judged anew, reported, exported, collected."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Select, func, insert, select, update
from sqlalchemy.orm import Session

from scoring.scorers.base import ScorerSpec
from service.db.database import Database, job_of, record
from service.db.models import Checkpoint, Event, Job, Node, Render, Score, Trial
from service.db.records import CheckpointRecord, JobRecord, NodeRecord, RenderRecord, TrialRecord
from service.db.states import (
    JOB_AT_REST,
    JOB_FINAL,
    NODE_FINAL,
    RENDER_MOVES,
    NodeState,
    RenderState,
    TrialKind,
    TrialState,
    check_move,
)
from service.db.tree import final_node, mentions
from service.db.trials import render_records
from service.errors import Conflict

Choose = Callable[[NodeRecord, Sequence[TrialRecord]], Collection[int]]
"""From a node that is over and its trials: the ids of the trials whose images are given up."""

RESCORE = "rescore.begun"
AT_ONCE = 500
"""How many values a query lists at most."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class GivenUp:
    """Renders of a node whose images are given up. trials: their ids; renders: how many."""

    node: str
    trials: frozenset[int]
    renders: int


@dataclass(frozen=True)
class ImageUse:
    """A render that names an image."""

    sha256: str
    trial_id: int
    state: RenderState


@dataclass(frozen=True)
class Unscored:
    """A render whose image a scorer has not judged yet."""

    id: int
    sha256: str
    kind: TrialKind
    probe: int


class AfterwardsStore(Database):
    """The storage contract of what comes after a search."""

    def node_renders(
        self, node_id: int, *, kinds: Sequence[TrialKind] = tuple(TrialKind)
    ) -> dict[int, list[RenderRecord]]:
        """Trial id -> its renders by probe, for all trials of a node of these kinds."""
        with self._read() as session:
            return render_records(session, Trial.node_id == node_id, Trial.kind.in_(kinds))

    def record_export(self, node_id: int, number: int, name: str, sha256: str) -> None:
        """Record that the merge of a search trial was written under another name."""
        with self._write() as session:
            node = _locked_node(session, node_id)
            data = {**_named(node), "trial": number, "name": name, "sha256": sha256}
            record(session, node.job_id, "checkpoint.exported", data, node.id)

    def restore_checkpoint(self, node_id: int, path: Path) -> None:
        """The output of a node, which must have one, is there again."""
        with self._write() as session:
            node = _locked_node(session, node_id)
            row = session.scalars(select(Checkpoint).where(Checkpoint.node_id == node_id)).one()
            row.path, row.collected_at = str(path), None
            data = {**_named(node), "name": row.name, "sha256": row.sha256}
            record(session, node.job_id, "checkpoint.made_again", data, node.id)

    def jobs_at_rest(self) -> list[JobRecord]:
        """All jobs in which nothing more happens until a person acts, oldest first."""
        resting = select(Job).where(Job.state.in_(JOB_AT_REST)).order_by(Job.created_at, Job.id)
        with self._read() as session:
            return [JobRecord.model_validate(job) for job in session.scalars(resting)]

    def collect_renders(self, job_id: str, choose: Choose, *, dry_run: bool) -> list[GivenUp]:
        """Give up images of a job's nodes that are over; what was given up, or would be in a dry run.

        The rows keep their scores. Whoever calls this removes the files afterwards: a file too many is
        harmless, a row that names a missing file is not. Raises NotFound.
        """
        with self._read() if dry_run else self._write() as session:
            over = [node for node in job_of(session, job_id).nodes if node.state in NODE_FINAL]
            found = [_chosen(session, node, choose) for node in over]
            if not dry_run:
                for node, given_up in zip(over, found, strict=True):
                    _collect_renders(session, node, given_up)
            return [given_up for given_up in found if given_up.renders]

    def image_uses(self, hashes: Sequence[str]) -> list[ImageUse]:
        """Every render that names one of these images."""
        with self._read() as session:
            return [
                ImageUse(*row)
                for some in _parts(hashes)
                for row in session.execute(
                    select(Render.sha256, Render.trial_id, Render.state).where(Render.sha256.in_(some))
                )
            ]

    def collect_checkpoints(self, job_id: str, *, dry_run: bool) -> list[CheckpointRecord]:
        """Give up the outputs that lead to a job's final one; which were, or would be in a dry run.

        Only where the final one is written, and none that an unfinished node of any job takes or may take.
        Whoever calls this removes the files afterwards. Raises NotFound.
        """
        with self._read() if dry_run else self._write() as session:
            rows = _intermediate(session, job_of(session, job_id))
            if not dry_run:
                for row in rows:
                    _collect_checkpoint(session, row)
            return [CheckpointRecord.model_validate(row) for row in rows]

    def collected_checkpoints(self) -> list[CheckpointRecord]:
        """Every output whose file was given up."""
        given_up = select(Checkpoint).where(Checkpoint.collected_at.is_not(None)).order_by(Checkpoint.id)
        with self._read() as session:
            return [CheckpointRecord.model_validate(row) for row in session.scalars(given_up)]

    def begin_rescore(self, node_id: int, spec: ScorerSpec) -> None:
        """Record that a scorer judges a node's images from now on.

        Whether less is better may be said anew: the numbers stay what they are. Raises Conflict when it
        judged before with other weights, or the node's plan has it otherwise: its numbers could not be
        compared.
        """
        with self._write() as session:
            node = _locked_node(session, node_id)
            known = _judges(session, node).get(spec.scorer)
            asked = spec.model_dump(mode="json", exclude={"weight"})
            had = {} if known is None else known.model_dump(mode="json", exclude={"weight"})
            planned = spec.scorer in {given["scorer"] for given in _planned(node)}
            differs = [name for name in had if had[name] != asked[name]]
            if not had or (differs == ["reverse"] and not planned):
                record(session, node.job_id, RESCORE, {**_named(node), **asked}, node.id)
            elif differs:
                with_these = ", ".join(f"the {name} {had[name]}" for name in differs)
                raise Conflict(
                    f"node {node.name} has numbers of {spec.scorer} with {with_these}; give the same, or "
                    "register this one as a scorer of another name"
                )

    def judges(self, node_id: int) -> dict[str, ScorerSpec]:
        """Every scorer that judges a node's images, counting, watching or added afterwards, by its name."""
        with self._read() as session:
            return _judges(session, session.get_one(Node, node_id))

    def unscored_counts(self, node_id: int, scorer: str) -> dict[RenderState, int]:
        """How many renders of a node's finished trials lack a scorer's number, by their state."""
        with self._read() as session:
            lacking = _lacking(node_id, scorer, Render.state, func.count()).group_by(Render.state)
            return dict(session.execute(lacking).all())

    def unscored(self, node_id: int, scorer: str, *, after: int, limit: int) -> list[Unscored]:
        """Stored renders of a node's finished trials that lack a scorer's number, by their ids.

        after: the id that they follow. Open trials are left out: their worker goes on with the numbers that
        it knows.
        """
        lacking = _lacking(node_id, scorer, Render.id, Render.sha256, Trial.kind, Render.probe)
        wanted = lacking.where(Render.state == RenderState.STORED, Render.id > after).order_by(Render.id)
        with self._read() as session:
            return [Unscored(*row) for row in session.execute(wanted.limit(limit))]

    def add_scores(self, job_id: str, scorer: str, values: Mapping[int, float]) -> int:
        """Store a scorer's numbers (render id -> number); how many were new. Raises NotFound."""
        with self._write() as session:
            job_of(session, job_id)
            # Two that rescore the same job at once judge the same images; the first one's numbers stay.
            there = select(Score.render_id).where(Score.scorer == scorer, Score.render_id.in_(values))
            known = set(session.scalars(there))
            rows = [
                {"render_id": render_id, "scorer": scorer, "value": value}
                for render_id, value in values.items()
                if render_id not in known
            ]
            if rows:
                session.execute(insert(Score), rows)
                record(session, job_id, "scores.added", {"scorer": scorer, "renders": len(rows)})
            return len(rows)


def _judges(session: Session, node: Node) -> dict[str, ScorerSpec]:
    begun = select(Event).where(Event.node_id == node.id, Event.kind == RESCORE).order_by(Event.id)
    added = [event.data for event in session.scalars(begun)]
    known = [{k: v for k, v in data.items() if k in ScorerSpec.model_fields} for data in added]
    return {spec.scorer: spec for spec in map(ScorerSpec.model_validate, [*known, *_planned(node)])}


def _planned(node: Node) -> list[dict[str, Any]]:
    return [*node.plan["scorers"], *node.plan.get("watch", [])]


def _lacking(node_id: int, scorer: str, *columns: Any) -> Select[Any]:
    scored = select(Score.render_id).where(Score.render_id == Render.id, Score.scorer == scorer)
    return (
        select(*columns)
        .select_from(Render)
        .join(Trial)
        .where(Trial.node_id == node_id, Trial.state == TrialState.DONE, ~scored.exists())
    )


def _locked_node(session: Session, node_id: int) -> Node:
    node = session.get_one(Node, node_id)
    job_of(session, node.job_id)
    return node


def _parts(values: Sequence[Value]) -> Iterator[Sequence[Value]]:
    return (values[i : i + AT_ONCE] for i in range(0, len(values), AT_ONCE))


def _named(node: Node) -> dict[str, object]:
    return {"node": node.name, "position": node.position}


def _chosen(session: Session, node: Node, choose: Choose) -> GivenUp:
    trials = session.scalars(select(Trial).where(Trial.node_id == node.id).order_by(Trial.number, Trial.id))
    chosen = choose(NodeRecord.model_validate(node), [TrialRecord.model_validate(t) for t in trials])
    counts = dict(
        session.execute(
            select(Render.trial_id, func.count())
            .join(Trial)
            .where(Trial.node_id == node.id, Render.state == RenderState.STORED)
            .group_by(Render.trial_id)
        ).all()
    )
    stored = frozenset(trial_id for trial_id in chosen if trial_id in counts)
    return GivenUp(node.name, stored, sum(counts[trial_id] for trial_id in stored))


def _collect_renders(session: Session, node: Node, given_up: GivenUp) -> None:
    if not given_up.renders:
        return
    check_move(RENDER_MOVES, f"renders of node {node.name}", RenderState.STORED, RenderState.COLLECTED)
    for some in _parts(sorted(given_up.trials)):
        session.execute(
            update(Render)
            .where(Render.trial_id.in_(some), Render.state == RenderState.STORED)
            .values(state=RenderState.COLLECTED)
        )
    data = {**_named(node), "trials": len(given_up.trials), "renders": given_up.renders}
    record(session, node.job_id, "renders.collected", data, node.id)


def _intermediate(session: Session, job: Job) -> list[Checkpoint]:
    final = final_node(job.nodes)
    present = select(Checkpoint).join(Node).where(Node.job_id == job.id, Checkpoint.collected_at.is_(None))
    rows = {row.node_id: row for row in session.scalars(present.order_by(Node.position))}
    if final.state is not NodeState.DONE or final.id not in rows:
        return []
    wanted = _wanted_hashes(session)
    waiting = [node for node in job.nodes if node.state not in NODE_FINAL]
    return [
        rows[node.id]
        for node in job.nodes
        if node.id in rows
        and node is not final
        and node.state in NODE_FINAL
        and rows[node.id].sha256 not in wanted
        and not any(mentions(other, node.name) for other in waiting)
    ]


def _wanted_hashes(session: Session) -> set[str]:
    """What unfinished nodes merge, or may: their inputs, and the leaves of their jobs."""
    inputs = select(Node.a_sha256, Node.b_sha256).where(Node.state.not_in(NODE_FINAL))
    wanted = {sha256 for row in session.execute(inputs) for sha256 in row if sha256}
    for leaves in session.scalars(select(Job.leaves).where(Job.state.not_in(JOB_FINAL))):
        wanted.update(sha256 for sha256 in leaves.values() if sha256)
    return wanted


def _collect_checkpoint(session: Session, row: Checkpoint) -> None:
    node = session.get_one(Node, row.node_id)
    row.collected_at = time.time()
    data = {**_named(node), "name": row.name, "sha256": row.sha256, "size": row.size}
    record(session, node.job_id, "checkpoint.collected", data, node.id)
