"""What optuna-dashboard is given to show: a table of trials that grows and whose scores may move."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from optimizer.formats.trials_table import TrialRow, TrialTable
from scoring.errors import InputError
from service.cli.study import optuna
from service.study_view import StudyView


def table(*scores: float) -> TrialTable:
    """The trials of a merge with these scores."""
    rows = [
        TrialRow(
            number=number,
            kind="search",
            state="done",
            score=score,
            seconds=1.0,
            reason=None,
            weights={"IN00": 0.1 * number},
        )
        for number, score in enumerate(scores)
    ]
    return TrialTable(
        job="j", node="01b", a="left", b="right", tally="mean", scorers=["clip"], blocks=["IN00"], trials=rows
    )


def ask(view: StudyView, path: str, **changes: str) -> tuple[str, Any]:
    """The status and the JSON that a browser gets."""
    said: list[str] = []
    environ: dict[str, Any] = {"PATH_INFO": path, "wsgi.input": io.BytesIO()} | changes
    setup_testing_defaults(environ)
    body = b"".join(view(environ, lambda status, _headers, *_rest: said.append(status)))
    return said[0], json.loads(body) if said[0].startswith("200") else body.decode()


def shown_scores(view: StudyView) -> list[float]:
    """The scores that the dashboard tells of its one study."""
    status, listed = ask(view, "/api/studies")
    assert status == "200 OK"
    (study,) = listed["study_summaries"]
    assert study["study_name"] == "j/01b"
    _, told = ask(view, f"/api/studies/{study['study_id']}")
    return [trial["values"][0] for trial in told["trials"]]


def test_new_trials_are_added_and_moved_scores_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The dashboard keeps trials for two seconds.
    monkeypatch.setattr("optuna_dashboard._storage.timedelta", lambda seconds: timedelta(0))
    now = [table(0.5)]
    view = StudyView(lambda: now[0], tmp_path)
    assert shown_scores(view) == [0.5]
    now[0] = table(0.5, 0.25)
    view.refresh()
    assert shown_scores(view) == [0.5, 0.25]
    assert len(list(tmp_path.glob("*.db"))) == 1
    now[0] = table(0.75, 0.25)
    view.refresh()
    assert shown_scores(view) == [0.75, 0.25]


def test_only_this_machine_s_own_pages_may_look_and_nobody_may_change(tmp_path: Path) -> None:
    view = StudyView(lambda: table(0.5), tmp_path)
    assert ask(view, "/api/studies", HTTP_HOST="localhost:8189")[0] == "200 OK"
    assert ask(view, "/api/studies", HTTP_HOST="rebound.example")[0] == "403 Call it localhost"
    assert ask(view, "/api/studies/1", REQUEST_METHOD="DELETE")[0] == "403 A copy to look at"
    assert shown_scores(view) == [0.5]


def test_a_search_without_trials_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no search trial that ended yet"):
        StudyView(table, tmp_path)


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"pip install 'autombw\[dashboard\]'"):
        optuna("j")
