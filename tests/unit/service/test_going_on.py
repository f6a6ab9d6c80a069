"""What going on is worth, as everybody is told who looks at a node; none before it is known."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from optimizer.going_on import Outlook
from optimizer.search import SearchSettings, ToldTrial, expected_gain
from scoring.errors import InputError
from service.cli.live import render_job
from service.cli.stopping import with_stop_rule
from service.db.records import NodeRecord
from service.db.states import TrialKind
from service.db.store import Store
from service.db.watching import SearchStamp
from service.going_on import stamp_of, told_of
from service.progress import NodeProgress, job_progress
from service.recipe_of import recipe_scores
from service.report.page import report_html
from service.settings import Settings
from tests.unit.service.searched import finish, queue, run_trial, search_all, weights_of


def shown(store: Store, job_id: str) -> NodeProgress:
    return job_progress(store, job_id).nodes[0]


def terminal(store: Store, job_id: str) -> str:
    console = Console(record=True, width=200)
    console.print(render_job(job_progress(store, job_id).model_dump(mode="json")))
    return console.export_text()


def node_of(store: Store, job_id: str) -> NodeRecord:
    return store.nodes(job_id)[0]


def test_it_is_told_from_the_stored_trials_as_soon_as_there_are_enough(
    store: Store, settings: Settings
) -> None:
    job_id = queue(store)
    lease = store.lease_node("host:1:w", 30, job_id=job_id)
    assert lease is not None
    for number in range(12):
        run_trial(store, settings, lease, TrialKind.SEARCH, number)
    assert shown(store, job_id).going_on is None
    assert "going on" not in terminal(store, job_id)
    told = list[ToldTrial]()
    for number in (12, 13):
        run_trial(store, settings, lease, TrialKind.SEARCH, number)
        told = [
            ToldTrial(t.number, t.weights, t.score, seconds=t.seconds)
            for t in store.ended_trials(lease.node_id)
        ]
        expected = expected_gain(SearchSettings(trials=6), told)
        assert expected is not None
        assert shown(store, job_id).going_on == told_of(expected)
    found = shown(store, job_id).going_on
    assert found is not None
    assert found.seconds == 15, "ten trials of 1.5 s"
    assert found.gain_per_hour == pytest.approx(found.gain / 15 * 3600)
    assert f"going on: {found.text}" in terminal(store, job_id)


def test_nothing_is_worked_out_again_while_nothing_changes(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    ended = Store.ended_trials

    def reading(self: Store, node_id: int, most: int | None = None) -> Any:
        reads.append(node_id)
        return ended(self, node_id, most)

    monkeypatch.setattr(Store, "ended_trials", reading)
    job_id = queue(store)
    lease = store.lease_node("host:1:w", 30, job_id=job_id)
    assert lease is not None
    for number in range(13):
        run_trial(store, settings, lease, TrialKind.SEARCH, number)
    first = shown(store, job_id).going_on
    assert first is not None
    store.open_trial(lease, TrialKind.SEARCH, 13, weights_of(13))
    assert shown(store, job_id).going_on == first
    assert len(reads) == 1
    run_trial(store, settings, lease, TrialKind.SEARCH, 13)
    assert shown(store, job_id).going_on != first
    assert len(reads) == 2


def test_of_many_trials_it_is_worked_out_again_when_there_are_a_hundredth_more(store: Store) -> None:
    node, voted = (
        store.nodes(queue(store, output=judge, scorers=[{"scorer": judge}]))[0] for judge in ("clip", "human")
    )
    few, many = SearchStamp(40, 0.5, 20.0, None, 60.0), SearchStamp(4000, 0.5, 2000.0, None, 6000.0)
    assert stamp_of(node, few) != stamp_of(node, few._replace(ended=41))
    assert stamp_of(node, many) == stamp_of(node, many._replace(ended=4001, scores=2000.4))
    assert stamp_of(node, many) != stamp_of(node, many._replace(ended=4041))
    assert stamp_of(node, many) != stamp_of(node, many._replace(best=0.6))
    assert stamp_of(voted, many) != stamp_of(voted, many._replace(scores=2000.4)), "votes score anew"


def test_the_words_give_score_and_time() -> None:
    told = told_of(Outlook(0.0005, 0.0021, 10, 42.0))
    assert told.text == "+0.0021 expected from the next 10 trials, about 7 min: +0.018 an hour"
    unknown = told_of(Outlook(0.0005, 0.0021, 10, None))
    assert unknown.text == "+0.0021 expected from the next 10 trials"
    assert (unknown.seconds, unknown.gain_per_hour) == (None, None)


def test_a_result_says_how_sure_it_is_wherever_it_is_told(store: Store, settings: Settings) -> None:
    job_id = queue(store)
    search_all(store, settings, job_id, trials=8)
    found = shown(store, job_id).confidence
    assert found is not None
    assert found.heldout
    assert found.low <= found.gain <= found.high
    assert f"winner: {found.text}" in terminal(store, job_id)
    assert f"The winner: {found.text}." in report_html(store, settings, job_id)
    scores = recipe_scores(store, node_of(store, job_id))
    assert scores["heldout/confidence"] == found.probability
    assert scores["heldout/gain"] == pytest.approx(shown(store, job_id).heldout_gain)
    assert scores["search/winner"] == shown(store, job_id).scores["search/winner"]
    # A file that is made again, by another process, keeps its bits.
    assert Store(settings.database_url).nodes(job_id)
    other = Store(settings.database_url)
    assert recipe_scores(other, node_of(other, job_id)) == scores
    other.close()


def test_an_extended_search_does_not_end_by_the_rule_that_ended_it(store: Store, settings: Settings) -> None:
    job_id = queue(store, search={"trials": 20, "until_gain_per_hour": 0.5})
    lease = store.lease_node("host:1:w", 30, job_id=job_id)
    assert lease is not None
    for number in range(13):
        run_trial(store, settings, lease, TrialKind.SEARCH, number)
    store.end_search(lease, "going on is expected to gain little")
    finish(store, settings, lease)
    store.extend_node(job_id, node_of(store, job_id).name, 5)
    search = SearchSettings.model_validate(node_of(store, job_id).plan["search"])
    assert (search.trials, search.until_gain_per_hour) == (18, None)


class TestCommandLine:
    def test_the_option_replaces_what_the_job_file_says(self) -> None:
        request = {"name": "j", "search": {"trials": 9, "until_gain_per_hour": 2.0}}
        assert with_stop_rule(request, None) is request
        assert with_stop_rule(request, 0.01)["search"] == {"trials": 9, "until_gain_per_hour": 0.01}
        assert with_stop_rule({"name": "j"}, 0.01)["search"] == {"until_gain_per_hour": 0.01}
        assert request["search"] == {"trials": 9, "until_gain_per_hour": 2.0}

    @pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
    def test_what_is_no_gain_is_refused(self, wrong: float) -> None:
        with pytest.raises(InputError, match=r"--until-gain-per-hour .*: give a score per hour above 0"):
            with_stop_rule({}, wrong)
