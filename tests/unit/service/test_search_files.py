"""What the search of a job file names, histories and presets, is sent as numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from optimizer.blocks import BLOCKS, SDXL_BLOCKS
from optimizer.search import SearchSettings
from scoring.errors import InputError
from service.jobfile import read_job_file
from tests.unit.optimizer.formats.mbwrt_files import history_text, weights_of, write

HISTORY = history_text([(weights_of(0), 0.25), (weights_of(1), 0.5), (weights_of(0), 0.25)])


def test_a_history_beside_the_job_file_becomes_imported_trials(tmp_path: Path) -> None:
    write(tmp_path / "h.csv", HISTORY)
    file = tmp_path / "job.yaml"
    file.write_text("leaves: [a, b]\nsearch: {trials: 9, history: h.csv, start: [history]}\n")
    search = read_job_file(file)["search"]
    assert search == {
        "trials": 9,
        "start": ["history"],
        "imported": [{"weights": weights_of(0), "score": 0.25}, {"weights": weights_of(1), "score": 0.5}],
    }
    assert len(SearchSettings.model_validate(search).imported) == 2


def test_a_history_is_given_to_the_node_it_is_of(tmp_path: Path) -> None:
    write(tmp_path / "h.csv", HISTORY)
    file = tmp_path / "job.yaml"
    file.write_text("leaves: [a, b, c]\nnodes: {02b: {search: {history: [h.csv]}}}\n")
    assert len(read_job_file(file)["nodes"]["02b"]["search"]["imported"]) == 2
    table = "[{o: 1, a: a, b: b}, {o: 2, a: 1, b: c}]"
    for several in ("leaves: [a, b, c]", f"bracket: {{table: {table}}}"):
        file.write_text(f"{several}\nsearch: {{history: h.csv}}\n")
        with pytest.raises(InputError, match=r"search\.history: .* give it to its node"):
            read_job_file(file)
    file.write_text("leaves: [a, b]\nbracket: {first: 07b}\nsearch: {history: h.csv}\n")
    assert len(read_job_file(file)["search"]["imported"]) == 2


def test_a_wrong_history_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("leaves: [a, b]\nsearch: {history: h.csv}\n")
    with pytest.raises(InputError, match=r"h\.csv: no such file"):
        read_job_file(file)
    write(tmp_path / "h.csv", HISTORY.replace("0.25,50.5", "nan,50.5"))
    with pytest.raises(InputError, match=r"h\.csv, line 2: score is nan"):
        read_job_file(file)
    file.write_text("leaves: [a, b]\nsearch: {history: 3}\n")
    with pytest.raises(InputError, match=r"search\.history: 3 is no file's name"):
        read_job_file(file)


def test_a_history_that_is_imported_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "h.csv", HISTORY)
    file = tmp_path / "job.yaml"
    file.write_text("leaves: [a, b]\nsearch: {history: [h.csv, h.csv]}\n")
    with pytest.raises(ValidationError, match="trials 0 and 2 have the same weights; import each history"):
        SearchSettings.model_validate(read_job_file(file)["search"])


QUARTERS = ",".join(["0.25"] * 25)


def test_presets_of_a_file_become_weights_by_block(tmp_path: Path) -> None:
    write(tmp_path / "mine.tsv", f"MINE\t{QUARTERS}\nXL\t{','.join(['0.5'] * 20)}\n")
    file = tmp_path / "job.yaml"
    file.write_text("leaves: [a, b]\nsearch: {presets: mine.tsv, start: [MINE, GRAD_V, {M00: 0.5}, XL]}\n")
    assert read_job_file(file)["search"] == {
        "start": [
            dict.fromkeys(BLOCKS, 0.25),
            "GRAD_V",
            {"M00": 0.5},
            dict.fromkeys(SDXL_BLOCKS, 0.5),
        ]
    }


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("{presets: mine.tsv, start: [YOURS]}", r"there is no preset 'YOURS' in mine\.tsv; it has BOTH"),
        ("{presets: mine.tsv, start: [BOTH]}", r"mine\.tsv has 'BOTH' for SD1 and SD2 and for SDXL"),
        ("{presets: [1], start: [BOTH]}", r"search\.presets: \[1\] is no file's name"),
        ("{presets: none.tsv}", r"none\.tsv: no such file"),
    ],
)
def test_wrong_presets_are_said_before_anything_is_sent(search: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "mine.tsv", f"BOTH\t{QUARTERS}\nBOTH\t{','.join(['0.5'] * 20)}\n")
    file = tmp_path / "job.yaml"
    file.write_text(f"leaves: [a, b]\nsearch: {search}\n")
    with pytest.raises(InputError, match=message):
        read_job_file(file)
