"""Trials leave as CSV, JSON, a history of auto-MBW-rt and an Optuna study, with every number to the bit."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from optimizer.formats.mbwrt_history import read_history
from optimizer.formats.optuna_study import storage_url, write_study
from optimizer.formats.trials_table import (
    TrialRow,
    TrialTable,
    blocks_in,
    mbwrt_history,
    trials_csv,
    trials_json,
)
from scoring.errors import InputError
from tests.unit.optimizer.formats.mbwrt_files import NAT, write

BLOCKS = ["IN00", "IN11", "M00", "OUT05", "TIME_EMBED", "OUT"]
BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def row(number: int, score: float | None, kind: str = "search") -> TrialRow:
    return TrialRow(
        number=number,
        kind=kind,
        state="failed" if score is None else "done",
        score=score,
        seconds=1.5,
        reason="a black image, all of it" if score is None else None,
        began=BEGAN + timedelta(seconds=number),
        ended=BEGAN + timedelta(seconds=number + 1),
        weights={block: (number + place) / 21 for place, block in enumerate(BLOCKS)},
    )


def table(*trials: TrialRow) -> TrialTable:
    given = list(trials) or [row(0, 1 / 3), row(1, None), row(2, 2 / 3), row(2, 0.5, "heldout_winner")]
    return TrialTable(
        job="j1",
        node="01b",
        a="left",
        b="right",
        tally="median",
        scorers=["clip"],
        blocks=blocks_in(given),
        trials=given,
    )


def test_the_columns_are_named_by_block() -> None:
    rows = list(csv.DictReader(io.StringIO(trials_csv(table()))))
    assert list(rows[0]) == [
        *("number", "kind", "state", "score", "estimate", "standard_error", "seconds", "reason"),
        *BLOCKS,
    ]
    assert [each["kind"] for each in rows] == ["search", "search", "search", "heldout_winner"]
    assert float(rows[0]["score"]) == 1 / 3
    assert float(rows[2]["OUT"]) == 7 / 21
    assert (rows[1]["score"], rows[1]["reason"]) == ("", "a black image, all of it")


def test_json_holds_everything() -> None:
    assert TrialTable.model_validate_json(trials_json(table())) == table()
    read = json.loads(trials_json(table()))
    assert (read["tally"], read["trials"][2]["weights"]["OUT"]) == ("median", 7 / 21)


def test_auto_mbw_rt_gets_its_own_columns(tmp_path: Path) -> None:
    text = mbwrt_history(table())
    cells = text.splitlines()[2].split(",")
    assert float(cells[13]) == 7 / 21, "OUT of trial 2; the failed trial 1 is left out"
    assert float(cells[26]) == 6 / 21, "TIME_EMBED"
    assert float(cells[14]) == 0.0, "OUT00, in which A and B are the same"
    history = read_history(write(tmp_path / "h.csv", text))
    assert [trial.score for trial in history.trials] == [1 / 3, 2 / 3]
    assert history.best.weights == {**dict.fromkeys(NAT, 0.0), **row(2, None).weights}
    assert history.evaluation_seconds == 3.0


def test_what_has_no_history_is_refused() -> None:
    sdxl = row(0, 0.5).model_copy(update={"weights": {"IN00": 0.5, "LABEL_EMB": 0.5}})
    with pytest.raises(InputError, match=r"node 01b: .* this search is over IN00, LABEL_EMB; write csv or"):
        mbwrt_history(table(sdxl))
    with pytest.raises(InputError, match="node 01b has no trial that is done yet"):
        mbwrt_history(table(row(0, None)))


def test_optuna_opens_the_study(tmp_path: Path) -> None:
    file = tmp_path / "my study.db"
    name = write_study(file, table())
    assert [path.name for path in tmp_path.iterdir()] == ["my study.db"]
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{file}")
    assert (study.direction.name, study.user_attrs["a"]) == ("MAXIMIZE", "left")
    assert [trial.state for trial in study.trials] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.COMPLETE,
    ]
    assert study.best_trial.number == 2
    assert study.best_params == row(2, None).weights
    assert study.best_value == 2 / 3
    assert study.trials[1].user_attrs["reason"] == "a black image, all of it"
    assert set(study.trials[0].distributions) == set(BLOCKS)
    assert study.trials[0].distributions["OUT"] == optuna.distributions.FloatDistribution(0, 1)
    assert study.trials[2].duration == timedelta(seconds=1)


def test_a_trial_that_was_stopped_early_is_told_with_its_estimate(tmp_path: Path) -> None:
    expected = {"state": "stopped", "estimate": 0.9, "standard_error": 0.1, "reason": "stopped after 4 of 8"}
    told = table(row(0, 0.5), row(1, None).model_copy(update=expected))
    (_, stopped) = csv.DictReader(io.StringIO(trials_csv(told)))
    assert (stopped["state"], stopped["score"], stopped["estimate"]) == ("stopped", "", "0.9")
    assert "0.9" not in mbwrt_history(told)
    study = optuna.load_study(
        study_name=write_study(tmp_path / "s.db", told), storage=f"sqlite:///{tmp_path / 's.db'}"
    )
    assert study.trials[1].state is TrialState.PRUNED
    assert study.trials[1].user_attrs["estimate"] == 0.9
    assert study.best_trial.number == 0
    # A sampler goes on with it.
    space = study.trials[0].distributions
    study.sampler = optuna.samplers.RandomSampler(seed=1)
    assert set(study.ask(space).params) == set(BLOCKS)


def test_a_study_is_not_written_over_a_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    file.write_text("mine")
    with pytest.raises(InputError, match=r"study\.db exists already; give another name"):
        write_study(file, table())
    assert file.read_text() == "mine"
    with pytest.raises(InputError, match="no search trial that ended yet"):
        write_study(tmp_path / "other.db", table(row(0, 0.5, "heldout_a")))
    with pytest.raises(InputError, match="there is no folder"):
        write_study(tmp_path / "gone/other.db", table())
    assert list(tmp_path.iterdir()) == [file]
    assert storage_url(Path("/x/y z.db")) == "sqlite:////x/y z.db"


def test_elements_and_choices_have_columns_and_parameters_of_their_own(tmp_path: Path) -> None:
    given = [
        row(number, 0.5).model_copy(
            update={
                "weights": {"OUT05": 0.25, "IN00": 0.5, "OUT05/attn2": 0.75},
                "choices": {"text_encoder": option},
            }
        )
        for number, option in enumerate(("a", "=b"))
    ]
    told = table(*given).model_copy(update={"options": {"text_encoder": ["a", "=b"]}})
    rows = list(csv.DictReader(io.StringIO(trials_csv(told))))
    assert list(rows[0])[8:] == ["text_encoder", "IN00", "OUT05", "OUT05/attn2"]
    assert [each["text_encoder"] for each in rows] == ["a", "'=b"], "no formula"
    name = write_study(tmp_path / "s.sqlite3", told)
    study = optuna.load_study(study_name=name, storage=storage_url(tmp_path / "s.sqlite3"))
    assert [trial.params["text_encoder"] for trial in study.trials] == ["a", "=b"]
    assert study.trials[0].params["OUT05/attn2"] == 0.75
    with pytest.raises(InputError, match="differ in OUT05/attn2, text_encoder too"):
        mbwrt_history(told)
