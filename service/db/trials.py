"""Trials, renders and scores in the store."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, Select, func, insert, select, union
from sqlalchemy.orm import Session

from optimizer.racing import Estimate
from service.db.database import Database, leased_node, move_trial, record
from service.db.models import Node, Render, Score, Trial
from service.db.records import (
    EndedTrial,
    Lease,
    Looks,
    NewRender,
    NodeRender,
    RenderRecord,
    TrialRecord,
)
from service.db.rows import columns, records
from service.db.states import TRIAL_ENDED, TrialKind, TrialState
from service.errors import NotFound

NOTHING_SEEN = Looks()
_TRIALS = select(*columns(TrialRecord, Trial))


class TrialStore(Database):
    """The storage contract of what a node's trials produce."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._render_totals: dict[int, tuple[int, int, float]] = {}

    def open_trial(
        self,
        lease: Lease,
        kind: TrialKind,
        number: int,
        weights: Mapping[str, float],
        choices: Mapping[str, str] | None = None,
    ) -> TrialRecord:
        """Begin a trial; the one that a killed worker left open is returned as it was. Raises LeaseLost."""
        with self._write() as session:
            node = leased_node(session, lease)
            trial = session.scalars(_trial(node.id, kind, number)).one_or_none()
            if trial is None:
                trial = Trial(
                    node_id=node.id,
                    kind=kind,
                    number=number,
                    state=TrialState.OPEN,
                    weights=dict(weights),
                    choices=dict(choices) if choices else None,
                )
                session.add(trial)
                session.flush()
                record(session, node.job_id, "trial.opened", {"kind": kind, "number": number}, node.id)
            return TrialRecord.model_validate(trial)

    def find_trial(self, node_id: int, kind: TrialKind, number: int) -> TrialRecord | None:
        """A trial of a node by its kind and number; None where it was never opened."""
        with self._read() as session:
            trial = session.scalars(_trial(node_id, kind, number)).one_or_none()
            return None if trial is None else TrialRecord.model_validate(trial)

    def trial(self, trial_id: int) -> TrialRecord:
        """One trial. Raises NotFound."""
        with self._read() as session:
            found = records(TrialRecord, session.execute(_TRIALS.where(Trial.id == trial_id)))
        if not found:
            raise NotFound(f"there is no trial {trial_id}; the job's trials are at GET …/jobs/<id>/trials")
        return found[0]

    def trials(
        self,
        node_id: int,
        *,
        kinds: Sequence[TrialKind] = tuple(TrialKind),
        states: Sequence[TrialState] = tuple(TrialState),
        after: int = -1,
        limit: int | None = None,
    ) -> list[TrialRecord]:
        """Trials of a node of these kinds and states, by number, from the one after number `after`."""
        wanted = (
            _TRIALS.where(Trial.node_id == node_id, Trial.number > after)
            .where(Trial.kind.in_(kinds), Trial.state.in_(states))
            .order_by(Trial.number, Trial.id)
            .limit(limit)
        )
        with self._read() as session:
            return records(TrialRecord, session.execute(wanted))

    def ended_trials(self, node_id: int, most: int | None = None) -> list[EndedTrial]:
        """Every search trial that ended, by number.

        most: only so many of the best, by score or estimate (the earliest of equals), and of the latest.
        """
        of_node = (Trial.node_id == node_id, Trial.kind == TrialKind.SEARCH, Trial.state.in_(TRIAL_ENDED))
        wanted = select(*columns(EndedTrial, Trial)).where(*of_node).order_by(Trial.number)
        if most is not None:
            value = func.coalesce(Trial.estimate, Trial.score)
            ids = select(Trial.id).where(*of_node)
            best = ids.where(value.is_not(None)).order_by(value.desc(), Trial.number).limit(most).subquery()
            latest = ids.order_by(Trial.number.desc()).limit(most).subquery()
            wanted = wanted.where(Trial.id.in_(union(select(best.c.id), select(latest.c.id))))
        with self._read() as session:
            return records(EndedTrial, session.execute(wanted))

    def best_trial(self, node_id: int) -> TrialRecord | None:
        """The search trial of the highest score that may win, the earliest of equals; None before one is.

        What is only estimated never is.
        """
        wanted = (
            _TRIALS.where(Trial.node_id == node_id, Trial.kind == TrialKind.SEARCH)
            .where(Trial.state == TrialState.DONE, Trial.may_win)
            .order_by(Trial.score.desc(), Trial.number)
            .limit(1)
        )
        with self._read() as session:
            found = records(TrialRecord, session.execute(wanted))
        return found[0] if found else None

    def trial_counts(self, node_id: int) -> dict[TrialState, int]:
        """How many search trials of a node are in each state."""
        wanted = (
            select(Trial.state, func.count())
            .where(Trial.node_id == node_id, Trial.kind == TrialKind.SEARCH)
            .group_by(Trial.state)
        )
        with self._read() as session:
            return dict(session.execute(wanted).all())

    def warned_trials(self, node_id: int) -> int:
        """How many search trials of a node carry a warning of the watch."""
        wanted = select(func.count()).where(
            Trial.node_id == node_id, Trial.kind == TrialKind.SEARCH, Trial.warnings.is_not(None)
        )
        with self._read() as session:
            return session.execute(wanted).scalar_one()

    def probe_noise(self, node_id: int) -> float | None:
        """What racing measured last of a node: how far a probe's difference to the best trial strays."""
        wanted = (
            select(Trial.probe_noise)
            .where(Trial.node_id == node_id, Trial.probe_noise.is_not(None))
            .order_by(Trial.number.desc())
            .limit(1)
        )
        with self._read() as session:
            return session.execute(wanted).scalar_one_or_none()

    def render_totals(self, node_id: int) -> tuple[int, float]:
        """(number of renders, seconds they took) over all trials of a node.

        Trials that have ended get no more renders, and those of a node get their ids in the order of their
        commits (`service.db.database.job_of`): all up to the first that goes on are counted once.
        """
        first, count, seconds = self._render_totals.get(node_id, (0, 0, 0.0))
        each = (
            select(Trial.id, Trial.state, func.count(Render.id), func.coalesce(func.sum(Render.seconds), 0.0))
            .outerjoin(Render, Render.trial_id == Trial.id)
            .where(Trial.node_id == node_id, Trial.id > first)
            .group_by(Trial.id, Trial.state)
            .order_by(Trial.id)
        )
        with self._read() as session:
            rows = session.execute(each).all()
        settled = True
        for trial_id, state, more, longer in rows:
            count, seconds = count + more, seconds + float(longer)
            settled &= state in TRIAL_ENDED
            if settled:
                self._render_totals[node_id] = (trial_id, count, seconds)
        return count, seconds

    def late_render_totals(self, node_id: int, after: int) -> tuple[int, float]:
        """The same over the trials after number `after`."""
        wanted = (
            select(func.count(), func.coalesce(func.sum(Render.seconds), 0.0))
            .join(Trial, Trial.id == Render.trial_id)
            .where(Trial.node_id == node_id, Trial.number > after)
        )
        with self._read() as session:
            count, seconds = session.execute(wanted).one()
            return count, float(seconds)

    def add_renders(self, lease: Lease, trial_id: int, renders: Sequence[NewRender]) -> None:
        """Store renders with their scores, in one transaction. Raises LeaseLost."""
        with self._write() as session:
            node = leased_node(session, lease)
            _add_renders(session, trial_id, renders)
            data = {"trial": trial_id, "probes": [render.probe for render in renders]}
            record(session, node.job_id, "render.stored", data, node.id)

    def renders(self, trial_id: int) -> list[RenderRecord]:
        """What was rendered under a trial, by probe, with every scorer's number."""
        with self._read() as session:
            return render_records(session, Trial.id == trial_id).get(trial_id, [])

    def renders_of_node(self, node_id: int, *, after: int = 0, limit: int = 100) -> list[NodeRender]:
        """Renders of a node in the order of their ids, from the one after id `after`."""
        page = (
            select(Render, Trial.kind, Trial.number)
            .join(Trial)
            .where(Trial.node_id == node_id, Render.id > after)
            .order_by(Render.id)
            .limit(limit)
        )
        scores: dict[int, dict[str, float]] = defaultdict(dict)
        with self._read() as session:
            rows = session.execute(page).all()
            ids = [render.id for render, _, _ in rows]
            for score in session.scalars(select(Score).where(Score.render_id.in_(ids))):
                scores[score.render_id][score.scorer] = score.value
            return [
                NodeRender(
                    id=render.id,
                    trial=render.trial_id,
                    kind=kind,
                    number=number,
                    probe=render.probe,
                    sha256=render.sha256,
                    seconds=render.seconds,
                    state=render.state,
                    scores=scores[render.id],
                )
                for render, kind, number in rows
            ]

    def finish_trial(
        self,
        lease: Lease,
        trial_id: int,
        score: float,
        seconds: float,
        timings: Mapping[str, float],
        *,
        looks: Looks = NOTHING_SEEN,
    ) -> None:
        """End a trial with its score (the tally). Raises LeaseLost."""
        with self._write() as session:
            node, trial = leased_node(session, lease), session.get_one(Trial, trial_id)
            move_trial(trial, TrialState.DONE)
            trial.score, trial.seconds, trial.timings = score, seconds, dict(timings)
            trial.means, trial.warnings = dict(looks.means) or None, list(looks.warnings) or None
            trial.may_win = looks.may_win
            trial.slopes = None if looks.slopes is None else dict(looks.slopes)
            node.failed_in_row = 0
            _record_end(session, node, trial)

    def stop_trial(
        self,
        lease: Lease,
        trial_id: int,
        seconds: float,
        timings: Mapping[str, float],
        *,
        found: Estimate,
        reason: str,
    ) -> None:
        """End a trial that fell behind, with what it is expected to score. Raises LeaseLost."""
        with self._write() as session:
            node, trial = leased_node(session, lease), session.get_one(Trial, trial_id)
            move_trial(trial, TrialState.STOPPED)
            trial.estimate, trial.standard_error, trial.probes_seen = found.score, found.error, found.probes
            trial.probe_noise = found.noise
            trial.reason, trial.seconds, trial.timings = reason, seconds, dict(timings)
            node.failed_in_row = 0
            _record_end(session, node, trial)

    def park_trial(self, lease: Lease, trial_id: int, seconds: float, timings: Mapping[str, float]) -> None:
        """All of a trial is rendered; its score waits for votes. Raises LeaseLost."""
        with self._write() as session:
            node, trial = leased_node(session, lease), session.get_one(Trial, trial_id)
            move_trial(trial, TrialState.WAITING)
            trial.seconds, trial.timings = seconds, dict(timings)
            node.failed_in_row = 0
            _record_end(session, node, trial)

    def fail_trial(
        self, lease: Lease, trial_id: int, reason: str, seconds: float, timings: Mapping[str, float]
    ) -> int:
        """End a trial without a score. Returns how many search trials failed in a row. Raises LeaseLost."""
        with self._write() as session:
            node, trial = leased_node(session, lease), session.get_one(Trial, trial_id)
            move_trial(trial, TrialState.FAILED)
            trial.reason, trial.seconds, trial.timings = reason, seconds, dict(timings)
            node.failed_in_row += trial.kind is TrialKind.SEARCH
            _record_end(session, node, trial)
            return node.failed_in_row


def render_records(session: Session, *which: ColumnElement[bool]) -> dict[int, list[RenderRecord]]:
    """Trial id -> its renders by probe, for the trials of this condition."""
    wanted = (
        select(
            Render.trial_id,
            Render.id,
            Render.probe,
            Render.sha256,
            Render.seconds,
            Render.state,
            Render.slopes,
        )
        .join(Trial)
        .where(*which)
        .order_by(Render.probe)
    )
    scores = select(Score.render_id, Score.scorer, Score.value).join(Render).join(Trial).where(*which)
    by_render: dict[int, dict[str, float]] = defaultdict(dict)
    for render_id, scorer, value in session.execute(scores):
        by_render[render_id][scorer] = value
    found: dict[int, list[RenderRecord]] = defaultdict(list)
    for trial_id, render_id, probe, sha256, seconds, state, slopes in session.execute(wanted):
        scored = by_render[render_id]
        found[trial_id].append(
            RenderRecord(
                probe=probe, sha256=sha256, seconds=seconds, state=state, scores=scored, slopes=slopes
            )
        )
    return dict(found)


def _trial(node_id: int, kind: TrialKind, number: int) -> Select[Trial]:
    return select(Trial).where(Trial.node_id == node_id, Trial.kind == kind, Trial.number == number)


def _add_renders(session: Session, trial_id: int, renders: Sequence[NewRender]) -> None:
    now = time.time()
    rows = [
        {
            "trial_id": trial_id,
            "probe": r.probe,
            "sha256": r.sha256,
            "seconds": r.seconds,
            "slopes": r.slopes,
            "created_at": now,
        }
        for r in renders
    ]
    inserted = session.execute(insert(Render).values(rows).returning(Render.probe, Render.id))
    ids = dict(inserted.all())
    scores = [
        {"render_id": ids[render.probe], "scorer": scorer, "value": value}
        for render in renders
        for scorer, value in render.scores.items()
    ]
    if scores:  # none where people alone judge
        session.execute(insert(Score), scores)


def _record_end(session: Session, node: Node, trial: Trial) -> None:
    data = {"kind": trial.kind, "number": trial.number, "score": trial.score, "reason": trial.reason}
    record(session, node.job_id, f"trial.{trial.state}", data, node.id)
