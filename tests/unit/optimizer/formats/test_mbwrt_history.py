"""Histories of auto-MBW-rt are read by block name, and what is wrong with one is said with its line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from optimizer.formats.mbwrt_history import history_csv, read_history
from scoring.errors import InputError
from tests.unit.optimizer.formats.mbwrt_files import HISTORIES, NAT, history_text, weights_of, write

ROWS = [(weights_of(0), 0.25), (weights_of(1), 0.5625), (weights_of(0), 0.25), (weights_of(2), 0.5)]
GOOD = history_text(ROWS)


def test_trials_come_in_order_with_weights_by_name(tmp_path: Path) -> None:
    history = read_history(write(tmp_path / "h.csv", GOOD))
    assert [trial.score for trial in history.trials] == [0.25, 0.5625, 0.25, 0.5]
    assert history.trials[1].weights == weights_of(1)
    assert history.trials[1].weights["OUT"] == (7 * 13 + 1) % 27 / 27, "column 13 is OUT"
    assert history.trials[1].weights["OUT00"] == (7 * 14 + 1) % 27 / 27
    assert history.trials[1].weights["TIME_EMBED"] == (7 * 26 + 1) % 27 / 27, "column 26 is TIME_EMBED"
    assert (history.evaluation_seconds, history.iteration_seconds) == (50.5, 51.25)
    assert history.best is history.trials[1]


def test_a_repeated_row_is_reported_and_counts_once(tmp_path: Path) -> None:
    rows = [*ROWS, (weights_of(1), 0.125)]
    history = read_history(write(tmp_path / "h.csv", history_text(rows)))
    assert [trial.repeats for trial in history.trials] == [None, None, 0, None, 1]
    assert [trial.number for trial in history.distinct] == [0, 1, 3]
    assert history.notes() == [
        "line 4 has the weights of line 2 and its score: it counts once",
        "line 6 has the weights of line 3 and another score (0.125, not 0.5625): the earlier one counts",
    ]


def test_the_earliest_of_equal_scores_is_the_best(tmp_path: Path) -> None:
    rows = [(weights_of(0), 0.5), (weights_of(1), 0.5)]
    assert read_history(write(tmp_path / "h.csv", history_text(rows))).best.number == 0


def changed(line: int, column: int, cell: str | None) -> str:
    """The good history with one cell replaced, or (None) removed."""
    lines = GOOD.split("\r\r\n")
    cells = lines[line - 1].split(",")
    cells[column : column + 1] = [] if cell is None else [cell]
    lines[line - 1] = ",".join(cells)
    return "\r\r\n".join(lines)


def with_columns(count: int) -> str:
    header = ",".join([*map(str, range(count)), "score", "eval_times", "iter_times"])
    return f"{header}\n" + ",".join(["0.5"] * (count + 3)) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            with_columns(26),
            r"h\.csv, line 1: the header names 26 block weights \(0\.\.25\), a history has 27",
        ),
        (with_columns(28), r"h\.csv, line 1: the header names 28 block weights"),
        (changed(3, 5, "nan"), r"h\.csv, line 3: column 5 \(IN05\) is nan; only finite numbers"),
        (changed(3, 27, "inf"), r"h\.csv, line 3: score is inf"),
        (changed(4, 13, "high"), r"h\.csv, line 4: column 13 \(OUT\) is 'high', which is no number"),
        (changed(4, 14, ""), r"h\.csv, line 4: column 14 \(OUT00\) is '', which is no number"),
        (changed(2, 26, "1.25"), r"h\.csv, line 2: column 26 \(TIME_EMBED\) is 1\.25; it must lie from 0"),
        (changed(2, 0, "-0.1"), r"h\.csv, line 2: column 0 \(IN00\) is -0\.1; it must lie from 0"),
        (changed(5, 3, None), r"h\.csv, line 5: has 29 columns where 30 are needed; restore or remove"),
        (changed(5, 3, "0.1,0.2"), r"h\.csv, line 5: has 31 columns where 30 are needed"),
        (GOOD.replace("eval_times", "evals"), r"line 1: after the weights the header names score, evals"),
        (GOOD.split("\r\r\n")[0], r"h\.csv holds a header and no trial"),
        (GOOD.split("\r\r\n", 1)[1], r"h\.csv, line 1: the first line is '0\.0,.*not the header"),
        ("", r"h\.csv is empty; give a history of auto-MBW-rt"),
        ("\r\n \n", r"h\.csv is empty"),
        ("0,1\0,2", r"h\.csv: is no text, it holds zero bytes"),
    ],
)
def test_bad_input_names_file_line_and_remedy(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_history(write(tmp_path / "h.csv", text))


def test_what_is_no_text_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe0\x00,\x00")
    with pytest.raises(InputError, match=r"binary\.csv: is no text in UTF-8"):
        read_history(tmp_path / "binary.csv")
    with pytest.raises(InputError, match="is a directory"):
        read_history(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read_history(tmp_path / "none.csv")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    text = history_csv(ROWS, 12.5, 13.0)
    assert next(csv.reader([text.splitlines()[1]]))[:27] == [str(weights_of(0)[block]) for block in NAT]
    history = read_history(write(tmp_path / "h.csv", text))
    assert [(trial.weights, trial.score) for trial in history.trials] == ROWS
    assert (history.evaluation_seconds, history.iteration_seconds) == (12.5, 13.0)


def test_trials_of_other_blocks_make_no_history() -> None:
    with pytest.raises(InputError, match=r"have 2 \(without IN01, .*write csv or json"):
        history_csv([({"IN00": 0.5, "LABEL_EMB": 0.5}, 1.0)], 1.0, 1.0)


@pytest.mark.skipif(not HISTORIES.exists(), reason="the shared histories are not here")
def test_all_real_histories_are_read() -> None:
    files = sorted(HISTORIES.glob("*.csv"))
    assert len(files) == 18
    for file in files:
        history = read_history(file)
        # As csv and float alone see it.
        rows = [row for row in csv.reader(file.read_text().splitlines()) if row][1:]
        assert [list(trial.weights.values()) for trial in history.trials] == [
            [float(cell) for cell in row[:27]] for row in rows
        ]
        assert history.best.score == max(float(row[27]) for row in rows)
        assert len(history.distinct) == len({tuple(row[:27]) for row in rows})
        assert history.evaluation_seconds == float(rows[0][28])
