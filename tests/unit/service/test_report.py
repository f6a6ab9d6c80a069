"""The report: one page that asks for nothing, escapes what people typed, and says no more than is known."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy.orm import Session

from scoring.errors import InputError
from scoring.probes import Probe
from service.confidence import paired_gain
from service.db.models import Node
from service.db.states import HELDOUT_KINDS, TrialKind
from service.db.store import Store
from service.errors import NotFound
from service.report.contents import contents_of
from service.report.page import report_html
from service.report.pictures import LONGEST, Pictures, thumbnail
from service.report.plot import FAILED, SHAPES_AT_MOST, Search, scores_plot
from service.report.tree import Drawing, draw
from service.settings import Settings
from tests.unit.service.searched import (
    finish,
    leased,
    queue,
    run_trial,
    search,
    search_all,
    weights_of,
)

NASTY = """<script>alert(1)</script> " onload="alert(2)' & <img src=http://x.test/a.png>"""
FOUR = ("one", "two", "three", "four")
ASTOLFO = ("_202a", "_204a", "_210a", "_220a", "_211a", "_218a", "_221a", "_222a", "_219a", "_223a")


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_nothing_outside_of_the_page_is_asked_for(store: Store, settings: Settings) -> None:
    job_id = queue(store, FOUR)
    search_all(store, settings, job_id)
    html = report_html(store, settings, job_id)
    page = Page(html)
    asked = [
        value for name, value in page.attributes if name in ("src", "href", "xlink:href", "srcset", "data")
    ]
    assert len(asked) > 10
    assert all(value.startswith(("data:image/", "#")) for value in asked)
    assert all(value.startswith("url(#") for value in re.findall(r"url\([^)]*\)", html))
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes


def test_what_people_typed_is_shown_and_never_run(store: Store, settings: Settings) -> None:
    job_id = queue(
        store,
        (NASTY, "right"),
        name=NASTY,
        probes=[Probe(prompt=NASTY, seed=1, width=32, height=32)],
        heldout=[Probe(prompt=NASTY, seed=2, width=32, height=32)],
    )
    lease = leased(store, job_id)
    search(store, settings, lease)
    store.note(lease, NASTY)
    failed = store.open_trial(lease, TrialKind.SEARCH, 6, weights_of(6))
    store.fail_trial(lease, failed.id, NASTY, 1.0, {})
    store.fail_node(lease, NASTY)
    page = Page(report_html(store, settings, job_id))
    assert page.text.count(NASTY) >= 6
    assert "script" not in page.tags
    assert [name for name, _ in page.attributes if name.startswith("on")] == []
    assert all(value.startswith("data:") for name, value in page.attributes if name == "src")


@pytest.mark.parametrize("trials", [0, 1, 4])
def test_a_running_job_is_told_as_far_as_it_is(trials: int, store: Store, settings: Settings) -> None:
    job_id = queue(store, FOUR)
    if trials:
        lease = leased(store, job_id)
        for number in range(trials):
            run_trial(store, settings, lease, TrialKind.SEARCH, number)
    page = Page(report_html(store, settings, job_id))
    assert f"trial {trials} of 6" in page.text
    assert ("Scores over the trials" in page.text) == (trials > 0)
    assert "final model" not in page.text


def test_the_final_model_is_compared_with_the_best_leaf_and_the_average(
    store: Store, settings: Settings
) -> None:
    job_id = queue(store, FOUR)
    search_all(store, settings, job_id)
    contents = contents_of(store, job_id)
    result = contents.result
    assert result is not None
    nodes = {node.name: node for node in store.nodes(job_id)}
    scores = {}
    for name, leaves in (("01b", FOUR[:2]), ("02b", FOUR[2:])):
        for leaf, kind in zip(leaves, HELDOUT_KINDS[:2], strict=True):
            trial = store.find_trial(nodes[name].id, kind, 0)
            assert trial is not None
            scores[leaf] = trial.score
    assert {r.name: r.score for r in result.rivals if r.role == "leaf"} == scores == contents.leaf_scores
    best = max(scores, key=lambda leaf: scores[leaf] or 0)
    assert result.rivals[0].name == best
    average = store.find_trial(nodes["average"].id, TrialKind.HELDOUT_WINNER, 0)
    assert average is not None
    assert (result.rivals[-1].role, result.rivals[-1].score) == ("average", average.score)
    text = Page(report_html(store, settings, job_id)).text
    assert f"final model above the best leaf, {best}" in text
    assert "final model above the uniform merge of all leaves" in text


def test_leaves_that_were_judged_otherwise_are_not_compared(store: Store, settings: Settings) -> None:
    job_id = queue(store, FOUR)
    lease = leased(store, job_id)
    with Session(store.engine) as session, session.begin():  # as a job whose node has a tally of its own
        node = session.get_one(Node, lease.node_id)
        node.plan = {**node.plan, "tally": "median"}
    search(store, settings, lease)
    finish(store, settings, lease)
    search_all(store, settings, job_id)
    result = contents_of(store, job_id).result
    assert result is not None
    assert {rival.name for rival in result.rivals if rival.role == "leaf"} == set(FOUR[2:])


def test_without_held_out_probes_no_interval_is_claimed(store: Store, settings: Settings) -> None:
    job_id = queue(store, heldout=[])
    lease = leased(store, job_id)
    for number in range(5):
        run_trial(store, settings, lease, TrialKind.SEARCH, number)
    text = Page(report_html(store, settings, job_id)).text
    assert "the search chose its winner on these very probes" in text
    assert "3 (search)" in text
    assert "final model" not in text


def test_an_image_that_was_given_up_has_its_place(store: Store, settings: Settings) -> None:
    job_id = queue(store)
    search_all(store, settings, job_id)
    whole = Page(report_html(store, settings, job_id))
    store.collect_renders(job_id, lambda _, trials: [trial.id for trial in trials], dry_run=False)
    page = Page(report_html(store, settings, job_id))
    assert (whole.text.count("not kept"), whole.tags.count("img")) == (0, 4 * 2)
    assert (page.text.count("not kept"), page.tags.count("img")) == (4 * 2, 0)


def test_failures_are_told_with_their_reasons(store: Store, settings: Settings) -> None:
    lease = leased(store, queue(store))
    for number in range(3):
        trial = store.open_trial(lease, TrialKind.SEARCH, number, weights_of(number))
        store.fail_trial(lease, trial.id, "black image" if number else "scorer failed", 1.0, {})
    store.pause_node(lease, "3 trials failed in a row")
    text = " ".join(Page(report_html(store, settings, lease.job_id)).text.split())
    assert "01b paused: 3 trials failed in a row" in text
    assert "01b trial 0: scorer failed" in text
    assert "01b trials 1, 2: black image" in text


def test_a_price_makes_the_cost(store: Store, settings: Settings) -> None:
    job_id = queue(store)
    search_all(store, settings, job_id)
    hours = (6 + len(HELDOUT_KINDS)) * 1.5 / 3600
    text = " ".join(Page(report_html(store, settings, job_id, per_hour=720.0)).text.split())
    assert f"cost{hours * 720:.2f} at 720 per hour" in text
    assert "per hour" not in Page(report_html(store, settings, job_id)).text
    with pytest.raises(InputError, match=r"per hour -1: give what an hour costs"):
        report_html(store, settings, job_id, per_hour=-1)
    with pytest.raises(NotFound, match="no job 'nope'"):
        report_html(store, settings, "nope")


def test_every_scorer_that_judged_is_told(store: Store, settings: Settings) -> None:
    job_id = queue(store)
    search_all(store, settings, job_id)
    (merge,) = contents_of(store, job_id).merges
    assert merge.comparison is not None
    winner = merge.comparison.winner
    expected = np.mean([render.scores["laion-v2"] for render in winner.renders.values()])
    assert set(merge.by_scorer) == {"clip", "laion-v2"}
    assert merge.by_scorer["laion-v2"][-1] == pytest.approx(expected)


class TestGain:
    """The paired bootstrap."""

    def test_a_difference_that_every_probe_shows_has_no_spread(self) -> None:
        rival = [0.1, 0.5, 0.9, 0.3]
        gain = paired_gain([score + 0.25 for score in rival], rival, "arithmetic")
        assert (gain.value, gain.low, gain.high) == pytest.approx((0.25, 0.25, 0.25))
        assert gain.verdict == "good"
        assert paired_gain(rival, [score + 0.25 for score in rival], "arithmetic").verdict == "bad"

    def test_the_interval_is_that_of_the_mean_difference(self) -> None:
        """For many probes, about 1.96 standard errors to either side."""
        random = np.random.default_rng(1)
        rival = random.normal(0.5, 0.2, 400)
        winner = rival + random.normal(0.003, 0.05, 400)
        gain = paired_gain(winner.tolist(), rival.tolist(), "arithmetic")
        error = (winner - rival).std(ddof=1) / 20
        assert gain.low is not None
        assert gain.high is not None
        assert (gain.high - gain.low) / (2 * 1.96 * error) == pytest.approx(1.0, abs=0.1)
        assert (gain.low + gain.high) / 2 == pytest.approx(gain.value, abs=0.2 * error)
        assert gain.verdict == "open"

    def test_it_is_the_same_every_time_and_of_the_jobs_own_tally(self) -> None:
        winner, rival = [0.1, 0.9, 0.5, 0.4], [0.2, 0.3, 0.4, 0.8]
        assert paired_gain(winner, rival, "min") == paired_gain(winner, rival, "min")
        assert paired_gain(winner, rival, "min").value == pytest.approx(-0.1)
        assert paired_gain(winner, rival, "max").value == pytest.approx(0.1)

    def test_one_probe_has_no_interval_and_other_probes_cannot_be_paired(self) -> None:
        gain = paired_gain([0.5], [0.4], "arithmetic")
        assert (gain.low, gain.high, gain.verdict, gain.probes) == (None, None, "open", 1)
        with pytest.raises(ValueError, match="not of the same probes"):
            paired_gain([0.5, 0.6], [0.4], "arithmetic")


class TestTree:
    """The drawing of the bracket."""

    def test_a_pick_is_drawn_as_it_was_picked_and_the_other_takes_its_place(
        self, store: Store, settings: Settings
    ) -> None:
        job_id = queue(store, ASTOLFO)
        search_all(store, settings, job_id, trials=3)
        nodes = {node.name: node for node in store.nodes(job_id)}
        names = {node.id: node.name for node in nodes.values()}
        picked = names[nodes["08b"].b_node_id or 0]
        other = {"06b": "07b", "07b": "06b"}[picked]
        drawing = draw(list(nodes.values()))
        assert self.edges(drawing, "picked") == {(picked, "08b")}
        assert self.edges(drawing, "passed") == {(other, "08b")}
        assert (other, "09b") in self.edges(drawing, "plain")
        assert len(drawing.boxes) == len(ASTOLFO) + 9
        corners = {(box.x, box.y) for box in drawing.boxes}
        assert len(corners) == len(drawing.boxes), "no box lies on another"

    def test_before_it_is_decided_both_candidates_are_drawn(self, store: Store) -> None:
        drawing = draw(store.nodes(queue(store, ASTOLFO)))
        assert self.edges(drawing, "passed") == {("06b", "08b"), ("07b", "08b")}
        assert self.edges(drawing, "picked") == set()

    def edges(self, drawing: Drawing, line: str) -> set[tuple[str, str]]:
        return {(edge.source, edge.target) for edge in drawing.edges if edge.line == line}


class TestPlot:
    """The picture of all scores."""

    def test_names_are_text_and_every_trial_is_there(self) -> None:
        svg = scores_plot([Search("$x_1$ <b>", [0.5, 0.4, None, 0.6]), Search("02b", [0.3])])
        assert svg is not None
        assert "$x_1$ &lt;b&gt;" in svg
        assert "currentColor" in svg
        assert "<script" not in svg

    def test_who_watches_has_an_axis_of_its_own_and_warned_trials_a_ring_in_all(self) -> None:
        scores = [0.5, 0.4, 0.45, 0.6]
        plain = scores_plot([Search("01b", scores)])
        means: dict[str, list[float | None]] = {
            "sharpness": [9.0, None, 7.0, 3.0],
            "second $opinion$": [1.0, 2.0, 3.0, 4.0],
        }
        watched = scores_plot([Search("01b", scores, means, [3])])
        assert plain is not None
        assert watched is not None
        assert FAILED not in plain
        assert watched.count("sharpness") == 1
        assert "second $opinion$" in watched
        rings = re.findall(rf"stroke: {FAILED}", watched)
        assert len(rings) >= 3, "in the score's axis and in both others"

    def test_without_a_score_there_is_none(self) -> None:
        assert scores_plot([]) is None
        assert scores_plot([Search("01b", []), Search("02b", [None, None])]) is None

    def test_a_huge_search_stays_small(self) -> None:
        random = np.random.default_rng(0)
        svg = scores_plot([Search("01b", random.random(SHAPES_AT_MOST + 1).tolist())])
        assert svg is not None
        assert len(svg) < 400_000
        assert "data:image/png" in svg

    def test_drawing_is_imported_only_when_it_is_drawn(self) -> None:
        code = "import sys, service.report.page; print('matplotlib' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"


class TestPictures:
    """Thumbnails and the choice of probes."""

    def test_a_large_picture_becomes_a_small_webp(self, tmp_path: Path) -> None:
        path = tmp_path / "large.png"
        Image.effect_noise((900, 600), 40).save(path)
        uri = thumbnail(path)
        assert uri is not None
        with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as small:
            assert (small.format, max(small.size)) == ("WEBP", LONGEST)
            assert small.size[0] / small.size[1] == pytest.approx(1.5, abs=0.02)
        assert thumbnail(tmp_path / "gone.png") is None
        (tmp_path / "broken.png").write_bytes(b"no picture")
        assert thumbnail(tmp_path / "broken.png") is None

    def test_the_probes_of_the_largest_gains_and_the_two_of_the_least_are_shown(
        self, store: Store, settings: Settings
    ) -> None:
        heldout = [Probe(prompt=f"probe {i}", seed=i, width=32, height=32) for i in range(9)]
        job_id = queue(store, heldout=heldout)
        search_all(store, settings, job_id)
        comparison = contents_of(store, job_id).final.comparison
        assert comparison is not None
        winner = replace(comparison.winner, scores=[0.5 + 0.01 * i for i in range(9)])
        rivals = [replace(rival, scores=[0.5] * 9) for rival in comparison.rivals]
        grid = Pictures(settings.renders_dir).grid(replace(comparison, winner=winner, rivals=rivals), 5)
        assert [column.number for column in grid.columns] == [8, 7, 6, 1, 0]
        assert [row.is_winner for row in grid.rows] == [False, False, False, True]
        assert all(image is not None for row in grid.rows for image in row.images)
