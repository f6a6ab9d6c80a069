"""The drafts of one node: how they agreed with whole trials so far, and what one says of its trial."""

from __future__ import annotations

from collections.abc import Mapping

from optimizer.drafts import (
    DraftSettings,
    Pair,
    expected_whole,
    falls_short,
    is_drafted,
    is_whole_anyway,
    rank_agreement,
)
from optimizer.search import BASELINES
from service.db.states import TrialKind, TrialState
from service.db.store import Store
from service.race import Behind


class Drafts:
    """Told of every trial that was rendered both ways; `drafts` are the scores of drafts by number."""

    def __init__(self, settings: DraftSettings, drafts: Mapping[int, float], wholes: Mapping[int, float]):
        self._settings = settings
        self._drafts = dict(drafts)
        self._pairs = [Pair(n, self._drafts[n], wholes[n]) for n in sorted(wholes) if n in self._drafts]

    @classmethod
    def of_node(cls, settings: DraftSettings, store: Store, node_id: int) -> Drafts:
        """As far as the store has them."""
        scores: dict[TrialKind, dict[int, float]] = {}
        for kind in (TrialKind.DRAFT, TrialKind.SEARCH):
            done = store.trials(node_id, kinds=[kind], states=[TrialState.DONE])
            scores[kind] = {trial.number: trial.score for trial in done if trial.score is not None}
        return cls(settings, scores[TrialKind.DRAFT], scores[TrialKind.SEARCH])

    @property
    def agreement(self) -> float | None:
        """Spearman's rank correlation so far; None while there are too few trials."""
        return rank_agreement(self._pairs)

    def wanted(self, number: int) -> bool:
        """Whether trial `number` is drafted first."""
        return is_drafted(number, len(BASELINES), self.agreement, self._settings)

    def drafted(self, number: int, score: float) -> None:
        """The score of a draft."""
        self._drafts[number] = score

    def whole(self, number: int, score: float) -> str | None:
        """The score of a whole trial. Returns what people should know of the drafts from now on, if it
        changed."""
        if number not in self._drafts:
            return None
        before = self.agreement
        self._pairs.append(Pair(number, self._drafts[number], score))
        return self._news(before, self.agreement)

    def behind(self, number: int, best: float | None) -> Behind | None:
        """Whether the draft of trial `number` says that it will hardly beat the best score."""
        if number not in self._drafts or self.agreement is None or best is None or is_whole_anyway(number):
            return None
        draft = self._drafts[number]
        found = expected_whole(draft, self._pairs)
        if not falls_short(found, best):
            return None
        return Behind(
            found,
            f"stopped after its draft, {draft:.5g}: {found.score:.5g} ± {found.error:.2g} is expected of the "
            f"whole, and the best has {best:.5g}",
        )

    def _news(self, before: float | None, now: float | None) -> str | None:
        if now is None:
            return None
        least, ranks = self._settings.agreement, f"the ranks of {len(self._pairs)} drafts and their trials"
        if now < least:
            return f"no more drafts are made: {ranks} agree by {now:.2f}, less than {least:g}"
        return f"drafts decide from now on: {ranks} agree by {now:.2f}" if before is None else None
