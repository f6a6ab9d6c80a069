"""Trials judged anew: exactly the stored scores for the job's own tally and weights, others for others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scoring.errors import InputError
from scoring.reward import TALLIES, combine, tally
from scoring.scorers.base import ScorerSpec
from service.afterwards.retally import RetallyRequest, retally
from service.db.records import Lease, NewNode, NewRender
from service.db.states import NodeKind, TrialKind
from service.db.store import Store
from service.errors import NotFound
from service.settings import Settings
from tests.contract.store_contract import new_job
from tests.unit.service.searched import SCORERS, plan, queue, run_trial, search_all


def searching(store: Store, **changes: Any) -> Lease:
    lease = store.lease_node("host:1:w", 30, job_id=queue(store, **changes))
    assert lease is not None
    return lease


@pytest.mark.parametrize("name", TALLIES)
def test_the_jobs_own_tally_and_weights_give_the_stored_scores_to_the_bit(
    name: str, store: Store, settings: Settings
) -> None:
    job_id = queue(store, tally=name)
    search_all(store, settings, job_id)
    (found,) = retally(store, job_id, RetallyRequest()).nodes
    stored = {
        trial.number: trial.score
        for trial in store.trials(store.nodes(job_id)[0].id, kinds=[TrialKind.SEARCH])
    }
    assert {trial.number: trial.after for trial in found.best} == {
        trial.number: stored[trial.number] for trial in found.best
    }
    assert (found.counted, found.not_counted) == (6, [])
    assert found.rank_correlation == pytest.approx(1.0)
    assert found.best_before == found.best_after


def test_a_normalised_job_is_judged_anew_by_its_reference(store: Store, settings: Settings) -> None:
    given = new_job("normal", ("left", "right"))
    reference = NewNode("reference", NodeKind.REFERENCE, 0, "left", None, "normal-reference", {})
    nodes = [replace(node, plan=plan(normalise=True)) for node in (*given.nodes, reference)]
    job_id = store.create_job(replace(given, nodes=nodes)).id
    with pytest.raises(InputError, match=r"the reference, .* is not done yet"):
        retally(store, job_id, RetallyRequest())
    lease = store.lease_node("host:1:w", 30, job_id=job_id)
    assert lease is not None
    # clip: mean 0.3, deviation 0.1; laion: mean 6, deviation 2.
    raw = [{"clip": 0.2, "laion-v2": 4.0}, {"clip": 0.3, "laion-v2": 8.0}, {"clip": 0.4, "laion-v2": 6.0}]
    run_trial(store, settings, lease, TrialKind.SEARCH, 0, scores=raw)
    store.finish_node(lease, 0.0, None)
    lease = store.lease_node("host:1:w", 30, job_id=job_id)
    assert lease is not None
    for number, (clip, laion) in enumerate([(0.5, 6.0), (0.3, 9.0)]):
        scores = [{"clip": clip, "laion-v2": laion}] * 3
        run_trial(store, settings, lease, TrialKind.SEARCH, number, scores=scores)
    (found,) = retally(store, job_id, RetallyRequest()).nodes
    # Trial 0: clip is 2 deviations up, weighed 1 of 1.5; trial 1: laion 1.5, weighed 0.5 of 1.5.
    assert [t.number for t in found.best] == [0, 1]
    assert [t.after for t in found.best] == pytest.approx([4 / 3, 0.5])
    (heavy,) = retally(store, job_id, RetallyRequest(weights={"laion-v2": 3.0})).nodes
    assert [t.number for t in heavy.best] == [1, 0]
    assert [t.after for t in heavy.best] == pytest.approx([1.5 * 3 / 4, 2 / 4])
    (alone,) = retally(store, job_id, RetallyRequest(weights={"laion-v2": 0})).nodes
    assert [t.after for t in alone.best] == pytest.approx([0.5, 0.3]), "a single scorer counts raw"


def test_an_added_scorer_of_which_less_is_better_counts_so(store: Store, settings: Settings) -> None:
    lease = searching(store, scorers=[{"scorer": "clip"}])
    for number, noise in enumerate((0.1, 0.7)):
        run_trial(
            store, settings, lease, TrialKind.SEARCH, number, scores=[{"clip": 0.5, "noise": noise}] * 3
        )
    store.begin_rescore(lease.node_id, ScorerSpec(scorer="noise", reverse=True))
    (found,) = retally(store, lease.job_id, RetallyRequest(weights={"noise": 1.0})).nodes
    assert [t.number for t in found.best] == [0, 1]
    assert [t.after for t in found.best] == pytest.approx([(0.5 - 0.1) / 2, (0.5 - 0.7) / 2])


def test_another_tally_finds_another_best(store: Store, settings: Settings) -> None:
    lease = searching(store)
    steady = [{"clip": 0.5, "laion-v2": 5.0}] * 3
    lucky = [{"clip": 0.5, "laion-v2": 4.0}, {"clip": 0.5, "laion-v2": 4.0}, {"clip": 0.5, "laion-v2": 9.0}]
    for number, scores in enumerate((steady, lucky)):
        run_trial(store, settings, lease, TrialKind.SEARCH, number, scores=scores)
    (found,) = retally(store, lease.job_id, RetallyRequest(tally="median")).nodes
    assert found.best_before is not None
    assert found.best_after is not None
    assert (found.best_before.number, found.best_after.number) == (1, 0)
    assert found.best_before.after == tally("median", [combine(scores, SCORERS) for scores in lucky])
    assert found.best_after.after == combine(steady[0], SCORERS)


def test_a_weight_replaces_the_jobs_and_0_leaves_a_scorer_out(store: Store, settings: Settings) -> None:
    lease = searching(store)
    for number, clip in enumerate((0.9, 0.1)):
        run_trial(
            store,
            settings,
            lease,
            TrialKind.SEARCH,
            number,
            scores=[{"clip": clip, "laion-v2": 5 - 4 * clip}] * 3,
        )
    (heavier,) = retally(store, lease.job_id, RetallyRequest(weights={"clip": 9.0})).nodes
    assert heavier.weights == {"clip": 9.0, "laion-v2": 0.5}
    assert heavier.best[0].after == pytest.approx((9 * 0.9 + 0.5 * 1.4) / 9.5)
    (alone,) = retally(store, lease.job_id, RetallyRequest(weights={"laion-v2": 0})).nodes
    assert alone.weights == {"clip": 1.0}
    assert [trial.after for trial in alone.best] == pytest.approx([0.9, 0.1])


def test_trials_that_cannot_count_are_named_with_their_reason(store: Store, settings: Settings) -> None:
    lease = searching(store)
    run_trial(store, settings, lease, TrialKind.SEARCH, 0)
    failed = store.open_trial(lease, TrialKind.SEARCH, 1, {})
    store.fail_trial(lease, failed.id, "black image", 1.0, {})
    short = store.open_trial(lease, TrialKind.SEARCH, 2, {})
    store.add_renders(lease, short.id, [NewRender(0, "ab" * 32, 0.1, {"clip": 0.3, "laion-v2": 5.0})])
    store.finish_trial(lease, short.id, 9.0, 1.0, {})
    poor = store.open_trial(lease, TrialKind.SEARCH, 3, {})
    store.add_renders(lease, poor.id, [NewRender(i, "ab" * 32, 0.1, {"clip": 0.3}) for i in range(3)])
    store.finish_trial(lease, poor.id, 0.3, 1.0, {})
    store.open_trial(lease, TrialKind.SEARCH, 4, {})
    (found,) = retally(store, lease.job_id, RetallyRequest()).nodes
    assert {trial.number: trial.reason for trial in found.not_counted} == {
        1: "it failed: black image",
        2: "2 of its 3 renders are missing",
        3: "3 of its 3 renders have no number of laion-v2",
        4: "it is open",
    }
    assert found.counted == 1
    assert found.best_before is not None
    assert (found.best_before.number, found.best_before.after) == (2, None)
    assert found.rank_correlation is None


def test_a_tally_that_a_score_does_not_fit_counts_only_the_others(store: Store, settings: Settings) -> None:
    lease = searching(store, scorers=[{"scorer": "clip"}])
    for number, score in enumerate((0.3, -0.1)):
        run_trial(store, settings, lease, TrialKind.SEARCH, number, scores=[{"clip": score}] * 3)
    (found,) = retally(store, lease.job_id, RetallyRequest(tally="geometric")).nodes
    assert [(trial.number, trial.reason[:32]) for trial in found.not_counted] == [
        (1, "tally 'geometric' needs positive")
    ]
    assert found.counted == 1


def test_nothing_is_changed(store: Store, settings: Settings) -> None:
    job_id = queue(store)
    search_all(store, settings, job_id)
    node_id = store.nodes(job_id)[0].id
    before = (store.nodes(job_id), store.trials(node_id), store.node_renders(node_id), store.events(job_id))
    retally(store, job_id, RetallyRequest(tally="min", weights={"clip": 3}))
    after = (store.nodes(job_id), store.trials(node_id), store.node_renders(node_id), store.events(job_id))
    assert after == before


def test_all_merges_or_the_one_that_is_named(store: Store, settings: Settings) -> None:
    job_id = queue(store, ("one", "two", "three", "four"))
    search_all(store, settings, job_id)
    assert [node.node for node in retally(store, job_id, RetallyRequest()).nodes] == ["01b", "02b", "03b"]
    assert [node.node for node in retally(store, job_id, RetallyRequest(node="02b")).nodes] == ["02b"]
    for name, words in (("average", "is no merge"), ("nope", "has no node 'nope'; its nodes are 01b")):
        with pytest.raises(NotFound, match=words):
            retally(store, job_id, RetallyRequest(node=name))


@pytest.mark.parametrize(
    ("request_data", "words"),
    [
        ({"tally": "mean"}, "unknown tally 'mean'; known tallies: arithmetic"),
        (
            {"weights": {"nope": 1}},
            "no image of this job has a number of 'nope'; there are numbers of clip, lai",
        ),
        ({"weights": {"clip": -1}}, "clip weighs -1.0; give 0, which leaves it out, or more"),
        ({"weights": {"clip": float("nan")}}, "clip weighs nan"),
        ({"weights": {"clip": 0, "laion-v2": 0}}, "every scorer weighs 0"),
    ],
)
def test_wrong_input_is_named(
    request_data: dict[str, Any], words: str, store: Store, settings: Settings
) -> None:
    job_id = queue(store)
    search_all(store, settings, job_id)
    with pytest.raises(InputError, match=words):
        retally(store, job_id, RetallyRequest.model_validate(request_data))
