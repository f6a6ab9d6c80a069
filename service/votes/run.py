"""The trials of a merge that people judge: rounds of trials, and a rest after each until there are votes.

Trials are rendered, judged by whatever scorers need no people, and wait. When a round is full the node rests:
no worker holds it, and it says how many votes it needs. Once they are there a worker counts them, which gives
every trial of the merge its score by all votes so far, and the next round is proposed from these. Between two
counts no score moves, so a proposal depends on what is stored alone, however often the worker was killed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from optimizer.pending import with_pending
from optimizer.search import BASELINES, ToldTrial, may_win, next_trial, stop_reason
from scoring.reward import image_scores, tally
from scoring.scorers.cards import is_voted
from scoring.watch import Judged, watch_warnings
from service.db.records import Judgement, Looks, TrialRecord
from service.db.states import HELDOUT_KINDS, TrialKind, TrialState
from service.jobs import VoteSettings
from service.node_context import NodePaused
from service.trial_run import BASELINE_LABELS, Trials
from service.votes.ballot import Ballot, load_ballot

_SEARCH = (TrialKind.SEARCH,)


class VotesNeeded(Exception):
    """The node rests until there are `needed` votes that were not counted yet; the message says so."""

    def __init__(self, needed: int, waiting: int, where: str) -> None:
        super().__init__(
            f"{waiting} trials on {where} are rendered and wait for {needed} votes: open /vote on the page"
        )
        self.needed = needed


def votes_needed(settings: VoteSettings, ballot: Ballot, *, heldout: bool) -> int:
    """How many votes the trials that wait need in all; 0 where there are no two to compare."""
    if not ballot.comparable:
        return 0
    if heldout:
        return settings.heldout
    return math.ceil(settings.votes * min(1.0, len(ballot.waiting) / settings.trials))


class VotedTrials(Trials):
    """The trials of one run of a merge among whose scorers people are."""

    def search(self) -> None:
        """Go on with the search. Raises VotesNeeded when a round is full, and as `Trials.search`."""
        while True:
            ended, waiting = self._recall()
            reason = stop_reason(self.plan.search, self._told, self._elapsed)
            if waiting and (reason is not None or len(waiting) >= self.plan.votes.trials):
                self._count(_SEARCH)
                continue
            if reason is not None:
                break
            self.context.check()
            number = len(self._told)
            known = with_pending(self.plan.search, ended, waiting)
            candidate = next_trial(self.plan.search, self.judge.blocks, number, known, noisy=True)
            self._trial(TrialKind.SEARCH, number, candidate)
            self.recorder.flush()
        self._end_search(reason)

    def heldout(self, winner: TrialRecord) -> float | None:
        """As `Trials.heldout`, by votes. Raises VotesNeeded until they are there."""
        super().heldout(winner)
        while self.store.trials(self.node_id, kinds=HELDOUT_KINDS, states=[TrialState.WAITING], limit=1):
            self._count(HELDOUT_KINDS)
        scored = self.store.find_trial(self.node_id, TrialKind.HELDOUT_WINNER, winner.number)
        return None if scored is None else scored.score

    def _score(self, raw: Sequence[Mapping[str, float]]) -> float | None:  # noqa: ARG002
        return None  # it waits

    def _recall(self) -> tuple[list[ToldTrial], list[ToldTrial]]:
        """The trials that ended, and those that wait for votes; what the search is told of them."""
        rows = self.store.ended_trials(self.node_id)
        parked = self.store.trials(self.node_id, kinds=_SEARCH, states=[TrialState.WAITING])
        ended = [
            ToldTrial(t.number, t.weights, t.score, choices=t.choices or {}, seconds=t.seconds) for t in rows
        ]
        waiting = [ToldTrial(t.number, t.weights, None, choices=t.choices or {}) for t in parked]
        self._told = sorted([*ended, *waiting], key=lambda trial: trial.number)
        seconds = [*(trial.seconds for trial in rows), *(trial.seconds for trial in parked)]
        self._elapsed = sum(taken or 0.0 for taken in seconds)
        self._check_same_blocks()
        return ended, waiting

    def _count(self, kinds: Sequence[TrialKind]) -> None:
        """Score all trials of these kinds by the votes. Raises VotesNeeded, NodePaused."""
        heldout = TrialKind.SEARCH not in kinds
        ballot = load_ballot(self.store, self.node_id, kinds)
        if len(ballot.trials) > 1 and not ballot.comparable:
            raise NodePaused(
                f"the images of all {len(ballot.trials)} trials are the same to the bit: there is nothing to "
                "vote on; look whether the models are what they should be, then resume or cancel the job"
            )
        needed = votes_needed(self.plan.votes, ballot, heldout=heldout)
        if len(ballot.uncounted) < needed:
            where = "held-out probes" if heldout else "search probes"
            raise VotesNeeded(needed, len(ballot.waiting), where)
        # False when somebody voted or took a vote back meanwhile: then it is looked at again.
        self.store.count_votes(self.context.lease, ballot.uncounted, self._judgements(ballot))

    def _judgements(self, ballot: Ballot) -> dict[int, Judgement]:
        """Trial id -> what it is worth by all votes so far."""
        voted = [spec.scorer for spec in self.plan.scorers if is_voted(spec.scorer)]
        standings = ballot.standings()
        judged: dict[int, Judged] = {}
        for trial in ballot.trials:
            numbers = dict.fromkeys(voted, standings[trial.id].score)
            raw = [{**render.scores, **numbers} for render in ballot.renders[trial.id]]
            score = tally(self.plan.tally, image_scores(raw, self.plan.scorers, self._scale))
            judged[trial.id] = Judged(f"trial {trial.number}", score, raw)
        return {
            trial.id: Judgement(
                judged[trial.id].score,
                dict.fromkeys(voted, standings[trial.id].score),
                self._looks_of(trial, ballot, judged, voted),
            )
            for trial in ballot.trials
        }

    def _looks_of(
        self, trial: TrialRecord, ballot: Ballot, judged: Mapping[int, Judged], voted: Sequence[str]
    ) -> Looks:
        own = judged[trial.id]
        names = [*voted, *(spec.scorer for spec in self.plan.judges)]
        means = {name: fmean(own.numbers(name)) for name in names}
        baselines = [
            Judged(BASELINE_LABELS[place], judged[other.id].score, judged[other.id].raw)
            for other in ballot.trials
            if (place := _baseline_place(other)) is not None
        ]
        if not self.plan.watch or _baseline_place(trial) is not None:
            baselines = []
        warnings = watch_warnings(own, baselines, self.plan.watch, self.plan.guards)
        return Looks(means, warnings, may_win(self.plan.search, trial.weights, trial.choices or {}))


def _baseline_place(trial: TrialRecord) -> int | None:
    """0, 1, 2 for A, B and the uniform merge; None for any other trial."""
    if trial.kind is TrialKind.SEARCH:
        return trial.number if trial.number < len(BASELINES) else None
    place = HELDOUT_KINDS.index(trial.kind)
    return place if place < len(BASELINES) else None
