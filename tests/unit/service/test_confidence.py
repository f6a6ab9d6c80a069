"""How sure a winner is: prompts are drawn with their seeds, and nothing is read again that did not change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from scoring.probes import Probe
from scoring.scorers.base import ScorerSpec
from service.confidence import (
    Confidence,
    confidence_scores,
    paired_gain,
    prompt_groups,
    winner_confidence,
)
from service.db.records import Lease, NodeRecord
from service.db.states import HELDOUT_KINDS, TrialKind
from service.db.store import Store
from service.settings import Settings
from tests.unit.service.searched import queue, run_trial

CLIP = [ScorerSpec(scorer="clip")]
NOISE = np.random.default_rng(0).normal(0, 0.02, 12)


def probes(prompts: int, seeds: int) -> list[Probe]:
    return [Probe(prompt=f"p {p}", seed=s, width=32, height=32) for p in range(prompts) for s in range(seeds)]


class Search:
    """A merge whose trials score what they are given, by probe."""

    def __init__(self, store: Store, settings: Settings, **changes: Any) -> None:
        given = {"probes": probes(6, 2), "heldout": probes(3, 2), "scorers": CLIP, **changes}
        self.job_id = queue(store, **given)
        lease = store.lease_node("host:1:w", 30, job_id=self.job_id)
        assert lease is not None
        self.lease: Lease = lease
        self.store, self.settings = store, settings

    @property
    def node(self) -> NodeRecord:
        return self.store.node(self.lease.node_id)

    def trial(self, number: int, scores: Iterable[float], kind: TrialKind = TrialKind.SEARCH) -> None:
        judged = [{"clip": float(score), "human": 0.5} for score in scores]
        run_trial(self.store, self.settings, self.lease, kind, number, scores=judged)

    def baselines(self, *, above: float = 0.0) -> None:
        for number, level in enumerate((0.2, 0.25, 0.3)):
            self.trial(number, level + above + NOISE)

    def confidence(self) -> Confidence | None:
        return winner_confidence(self.store, self.node)


def test_probes_of_one_prompt_are_drawn_together() -> None:
    assert prompt_groups(probes(3, 2)) == ((0, 1), (2, 3), (4, 5))
    ugly = [probe.model_copy(update={"negative_prompt": "ugly"}) for probe in probes(1, 2)]
    assert prompt_groups([*probes(1, 2), *ugly]) == ((0, 1), (2, 3))


def test_where_there_is_one_prompt_its_seeds_are_drawn() -> None:
    assert prompt_groups(probes(1, 3)) == ((0,), (1,), (2,))
    assert prompt_groups([]) == ()


def test_seeds_that_agree_make_a_gain_no_surer() -> None:
    """Four seeds of a prompt that say the same are one witness, not four."""
    gains = np.repeat([0.03, -0.01, 0.02, 0.01, -0.005, 0.015], 4)
    rival = np.zeros(len(gains))
    apart = paired_gain(gains.tolist(), rival.tolist(), "arithmetic")
    grouped = paired_gain(gains.tolist(), rival.tolist(), "arithmetic", prompt_groups(probes(6, 4)))
    assert None not in (apart.low, apart.high, grouped.low, grouped.high)
    assert (grouped.high or 0) - (grouped.low or 0) > 1.5 * ((apart.high or 0) - (apart.low or 0))


def test_one_that_wins_on_every_probe_is_sure(store: Store, settings: Settings) -> None:
    search = Search(store, settings)
    assert search.confidence() is None, "there is no trial yet"
    search.baselines()
    search.trial(3, 0.32 + NOISE + np.linspace(0, 0.02, 12))
    found = search.confidence()
    assert found is not None
    assert found.probability == 1
    assert 0 < found.low < found.gain < found.high
    assert found.gain == pytest.approx(0.03)
    assert (found.heldout, found.probes, found.prompts) == (False, 12, 6)
    assert found.text.startswith("over 99.9 % sure that it beats the best of A, B and uniform: +0.0300 (")
    assert found.text.endswith("by 12 search probes of 6 prompts")


def test_one_that_wins_as_often_as_it_loses_is_not(store: Store, settings: Settings) -> None:
    search = Search(store, settings)
    search.baselines()
    even = np.tile([0.05, 0.05, -0.05, -0.05], 3)
    search.trial(3, 0.3 + NOISE + even + 1e-6)
    found = search.confidence()
    assert found is not None
    assert 0.3 < found.probability < 0.7
    assert found.low < 0 < found.high
    assert found.low <= found.gain <= found.high


def test_the_best_of_its_rivals_is_beaten_in_every_draw_or_not_at_all(
    store: Store, settings: Settings
) -> None:
    """Rivals that are good on different probes are together harder to beat than any one of them."""
    search = Search(store, settings, probes=probes(12, 1))
    halves = np.repeat([0.1, -0.1], 6)
    search.trial(0, 0.3 + halves)
    search.trial(1, 0.3 - halves)
    search.trial(2, np.full(12, 0.1))
    search.trial(3, np.full(12, 0.31))
    found = search.confidence()
    assert found is not None
    alone = paired_gain([0.31] * 12, (0.3 + halves).tolist(), "arithmetic")
    assert found.gain == pytest.approx(alone.value)
    assert found.probability < 0.35, "one of them has the draw on its side nearly always"


def test_a_baseline_that_is_the_best_trial_beats_nothing(store: Store, settings: Settings) -> None:
    search = Search(store, settings)
    search.baselines()
    found = search.confidence()
    assert found is not None
    assert (found.probability, found.gain) == (0, 0)


def test_a_single_probe_and_people_who_vote_tell_nothing(store: Store, settings: Settings) -> None:
    alone = Search(store, settings, probes=probes(1, 1), output="alone")
    for number in range(4):
        alone.trial(number, [0.2 + 0.1 * number])
    assert alone.confidence() is None
    # A vote is on whole trials: all probes of one have the same number.
    voted = Search(store, settings, scorers=[*CLIP, ScorerSpec(scorer="human")], output="voted")
    voted.baselines()
    voted.trial(3, 0.5 + NOISE)
    assert voted.confidence() is None


def test_held_out_probes_decide_once_all_four_are_scored(store: Store, settings: Settings) -> None:
    search = Search(store, settings)
    search.baselines()
    search.trial(3, 0.5 + NOISE)
    for level, kind in enumerate(HELDOUT_KINDS):
        before = search.confidence()
        assert before is not None
        assert not before.heldout
        number = 3 if kind is TrialKind.HELDOUT_WINNER else 0
        search.trial(number, 0.2 + 0.01 * level + NOISE[:6], kind)
    found = search.confidence()
    assert found is not None
    assert (found.heldout, found.probes, found.prompts) == (True, 6, 3)
    assert found.gain == pytest.approx(0.01)
    assert confidence_scores(found) == {
        "heldout/confidence": 1.0,
        "heldout/gain": found.gain,
        "heldout/gain_low": found.low,
        "heldout/gain_high": found.high,
    }
    assert confidence_scores(None) == {}


def test_renders_are_read_again_only_for_another_winner(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    renders = Store.renders

    def reading(self: Store, trial_id: int) -> Any:
        read.append(trial_id)
        return renders(self, trial_id)

    monkeypatch.setattr(Store, "renders", reading)
    search = Search(store, settings)
    search.baselines()
    search.trial(3, 0.31 + NOISE)
    first = search.confidence()
    assert len(read) == 4
    assert search.confidence() == first
    search.trial(4, 0.1 + NOISE)  # no better one
    assert search.confidence() == first
    assert len(read) == 4
    search.trial(5, 0.4 + NOISE)
    better = search.confidence()
    assert better is not None
    assert first is not None
    assert better.gain > first.gain
    assert len(read) == 8
