"""What people compare: the trials of one merge, on search probes or on held-out ones, and what they said.

Trials whose images are the same on every probe are one contestant: of the same pictures nobody can say which
is better.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from optimizer.search import BASELINES
from scoring.bradley_terry import Comparison, Outcome, Strengths, fit
from service.db.records import RenderRecord, TrialRecord, VoteRecord
from service.db.states import HELDOUT_KINDS, RenderState, TrialKind, TrialState, VoteOutcome
from service.db.store import Store

NEARLY_AS_GOOD = 0.9
"""Pairs that tell at least this share of what the best pair would are taken as well as it, by chance: people
who vote at the same time are seldom shown the same one."""

_OUTCOMES = {
    VoteOutcome.LEFT: Outcome.FIRST,
    VoteOutcome.RIGHT: Outcome.SECOND,
    VoteOutcome.TIE: Outcome.TIE,
}
_UNIFORM = list(BASELINES).index("uniform")


Shown = tuple[frozenset[int], int]
"""Two trials, whichever side each was on, and the probe."""


@dataclass(frozen=True)
class Standing:
    """A trial by its votes. score: logits above the uniform merge; error: its standard error; votes: how
    many showed it."""

    score: float
    error: float
    votes: int


@dataclass(frozen=True)
class Pair:
    """Two images of a probe, as they are shown: trial ids and the sha256 of the images."""

    left: int
    right: int
    probe: int
    left_image: str
    right_image: str

    @property
    def shown(self) -> Shown:
        """What is compared."""
        return frozenset((self.left, self.right)), self.probe


@dataclass(frozen=True)
class Ballot:
    """Trials of one phase of a node (waiting ones and done ones, by number), their images, and all votes.

    renders: trial id -> its renders by probe. votes: on trials of this phase alone.
    """

    trials: Sequence[TrialRecord]
    renders: Mapping[int, Sequence[RenderRecord]]
    votes: Sequence[VoteRecord]

    @property
    def waiting(self) -> list[TrialRecord]:
        """The trials whose score waits for votes."""
        return [trial for trial in self.trials if trial.state is TrialState.WAITING]

    @property
    def uncounted(self) -> list[int]:
        """The ids of the votes that are in no score yet."""
        return [vote.id for vote in self.votes if vote.counted is None]

    @cached_property
    def contestants(self) -> dict[int, int]:
        """Trial id -> number of the contestant that it is."""
        numbers: dict[tuple[str, ...], int] = {}
        found = {}
        for trial in self.trials:
            pictures = tuple(render.sha256 for render in self.renders.get(trial.id, []))
            found[trial.id] = numbers.setdefault(pictures, len(numbers))
        return found

    @property
    def comparable(self) -> bool:
        """Whether there are two that look different."""
        return len(set(self.contestants.values())) > 1

    @cached_property
    def strengths(self) -> Strengths:
        """What the votes say of the contestants."""
        return fit(
            len(set(self.contestants.values())),
            [
                Comparison(
                    self.contestants[vote.left_trial_id],
                    self.contestants[vote.right_trial_id],
                    _OUTCOMES[vote.outcome],
                )
                for vote in self.votes
            ],
        )

    def trial_showing(self, probe: int, sha256: str) -> int | None:
        """The first trial whose image of a probe this is; None where there is none."""
        return next(
            (
                trial.id
                for trial in self.trials
                for render in self.renders.get(trial.id, [])
                if render.probe == probe and render.sha256 == sha256
            ),
            None,
        )

    def standings(self) -> dict[int, Standing]:
        """Trial id -> where it stands. Without a uniform merge scores are above the mean of all."""
        anchor = next((trial.id for trial in self.trials if _is_anchor(trial)), None)
        above = None if anchor is None else self.contestants[anchor]
        seen = Counter(
            self.contestants[trial_id]
            for vote in self.votes
            for trial_id in (vote.left_trial_id, vote.right_trial_id)
        )
        return {
            trial_id: Standing(*self.strengths.above(contestant, above), seen[contestant])
            for trial_id, contestant in self.contestants.items()
        }

    def next_pairs(self, voter: str, count: int, chance: random.Random) -> list[Pair]:
        """The comparisons that tell most, with their sides shuffled: those of whom little is known and that
        are close. What this voter has judged comes once nothing else is left. Fewer than `count` where there
        are not so many.
        """
        judged = {_shown(vote) for vote in self.votes if vote.voter == voter}
        times = Counter(_shown(vote) for vote in self.votes)
        found: list[Pair] = []
        shown = self._pairs()
        left = {key: pair for key, pair in shown.items() if key not in judged} or shown
        while left and len(found) < count:
            chosen = self._most_telling(left, times, chance)
            found.append(chosen)
            # The next one is of two others: this one will have told of these.
            left = {key: pair for key, pair in left.items() if key[0] != chosen.shown[0]}
        return [_shuffled(pair, chance) for pair in found]

    def _pairs(self) -> dict[Shown, Pair]:
        """What can be shown: two different stored images of the same probe, of different contestants."""
        first = {contestant: trial for trial, contestant in reversed(self.contestants.items())}
        stored = {
            trial: {r.probe: r.sha256 for r in self.renders[trial] if r.state is RenderState.STORED}
            for trial in sorted(first.values())
        }
        pairs = (
            Pair(one, other, probe, sha256, stored[other][probe])
            for one, other in combinations(stored, 2)
            for probe, sha256 in stored[one].items()
            if stored[other].get(probe, sha256) != sha256
        )
        return {pair.shown: pair for pair in pairs}

    def _most_telling(
        self,
        pairs: Mapping[Shown, Pair],
        times: Mapping[Shown, int],
        chance: random.Random,
    ) -> Pair:
        told: dict[frozenset[int], float] = {}
        for trials, _ in pairs:
            if trials not in told:
                one, other = (self.contestants[trial] for trial in sorted(trials))
                told[trials] = self.strengths.information(one, other)
        enough = NEARLY_AS_GOOD * max(told.values())
        chosen = frozenset(chance.choice([sorted(pair) for pair in told if told[pair] >= enough]))
        probes = [pair for key, pair in pairs.items() if key[0] == chosen]
        least = min(times.get(pair.shown, 0) for pair in probes)
        return chance.choice([pair for pair in probes if times.get(pair.shown, 0) == least])


def load_ballot(store: Store, node_id: int, kinds: Sequence[TrialKind]) -> Ballot:
    """The ballot of a node's trials of these kinds."""
    trials = store.trials(node_id, kinds=kinds, states=[TrialState.WAITING, TrialState.DONE])
    known = {trial.id for trial in trials}
    votes = [vote for vote in store.votes(node_id) if {vote.left_trial_id, vote.right_trial_id} <= known]
    return Ballot(trials, store.node_renders(node_id, kinds=kinds), votes)


def open_ballot(store: Store, node_id: int) -> Ballot | None:
    """The ballot that waits for votes: of the search, or of the held-out probes; None where none does."""
    for kinds in ((TrialKind.SEARCH,), HELDOUT_KINDS):
        if store.trials(node_id, kinds=kinds, states=[TrialState.WAITING], limit=1):
            return load_ballot(store, node_id, kinds)
    return None


def _shown(vote: VoteRecord) -> Shown:
    return frozenset((vote.left_trial_id, vote.right_trial_id)), vote.probe


def _is_anchor(trial: TrialRecord) -> bool:
    if trial.kind is TrialKind.SEARCH:
        return trial.number == _UNIFORM
    return trial.kind is TrialKind.HELDOUT_UNIFORM


def _shuffled(pair: Pair, chance: random.Random) -> Pair:
    if chance.random() < 0.5:
        return pair
    return Pair(pair.right, pair.left, pair.probe, pair.right_image, pair.left_image)
