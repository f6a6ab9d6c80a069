"""The race of one node: its trials' scores by probe, and whether one that is under way has fallen behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optimizer.racing import Estimate, Incumbent, estimate, heats, is_behind, probe_noise, probe_order
from optimizer.search import BASELINES, SearchSettings
from scoring.errors import InputError


@dataclass(frozen=True)
class Behind:
    """A trial that is stopped: what it would score, and why, in words."""

    estimate: Estimate
    reason: str


class Race:
    """Trials are told as they end; a later one is compared with the best of those that may win.

    Only trials after the baselines race. probes: how many the node has. tally: its name.
    """

    def __init__(self, settings: SearchSettings, probes: int, tally: str) -> None:
        order = probe_order(settings.seed, probes)
        self._heats = heats(order) if settings.racing else [order]
        self._probes, self._tally = probes, tally
        self._whole: list[Sequence[float]] = []
        self._incumbent: Incumbent | None = None

    def tell(self, number: int, score: float, scores: Sequence[float], *, may_win: bool) -> None:
        """A trial that was rendered whole. scores: by probe."""
        self._whole.append(scores)
        if may_win and (self._incumbent is None or score > self._incumbent.score):
            self._incumbent = Incumbent(number, score, scores)

    def heats(self, number: int) -> list[list[int]]:
        """The probes of a trial in batches, after each of which `behind` is asked."""
        if number < len(BASELINES) or self._incumbent is None:
            return [list(range(self._probes))]
        return self._heats

    def behind(self, seen: Mapping[int, float]) -> Behind | None:
        """Whether a trial has fallen behind, from its scores by probe so far.

        None while it may still become the best, and once it is rendered whole.
        """
        if self._incumbent is None or len(seen) == self._probes:
            return None
        noise = probe_noise(self._incumbent, self._whole)
        if noise is None:
            return None
        try:
            found = estimate(seen, self._incumbent, noise, self._tally)
        except InputError:
            return None  # what is expected of the rest can't be tallied: let it be seen
        if not is_behind(found, self._incumbent):
            return None
        best = self._incumbent
        return Behind(
            found,
            f"stopped after {found.probes} of {self._probes} probes: {found.score:.5g} ± {found.error:.2g} "
            f"is expected, and trial {best.number} has {best.score:.5g}",
        )
