"""Histories of auto-MBW-rt: one CSV per search, `0..26,score,eval_times,iter_times`, in evaluation order.

The columns 0..26 are in nat order: 13 is OUT and 26 is TIME_EMBED. The two times are those of the whole run
and repeat on every row.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizer.blocks import NAT_ORDER, BlockWeights
from optimizer.formats.text import read_alpha, read_lines, read_number
from scoring.errors import InputError

HEADER: tuple[str, ...] = (*map(str, range(len(NAT_ORDER))), "score", "eval_times", "iter_times")


@dataclass(frozen=True)
class HistoryTrial:
    """One row. number: its place in the file from 0; line: where it stands in the file.

    repeats: the number of the earlier trial that had the same weights, if any.
    """

    number: int
    line: int
    weights: BlockWeights
    score: float
    repeats: int | None


@dataclass(frozen=True)
class History:
    """A search of auto-MBW-rt. The seconds are those of the whole run, None where the rows disagree."""

    file: Path
    trials: tuple[HistoryTrial, ...]
    evaluation_seconds: float | None
    iteration_seconds: float | None

    @property
    def best(self) -> HistoryTrial:
        """The trial of the highest score, the earliest of equals."""
        return max(self.trials, key=lambda trial: (trial.score, -trial.number))

    @property
    def distinct(self) -> tuple[HistoryTrial, ...]:
        """The trials without the repeated ones."""
        return tuple(trial for trial in self.trials if trial.repeats is None)

    def notes(self) -> list[str]:
        """What a reader should know: which rows repeat, and whether their scores agree."""
        repeated = [trial for trial in self.trials if trial.repeats is not None]
        return [_repeat_note(trial, self.trials[trial.repeats or 0]) for trial in repeated]


def read_history(path: Path) -> History:
    """Read a history. Raises InputError that names the file, the line and the remedy."""
    lines = read_lines(path)
    if not lines:
        raise InputError(
            f"{path} is empty; give a history of auto-MBW-rt, whose first line is 0,1,…,26,score"
        )
    rows = [(number, text.split(",")) for number, text in lines]
    _check_header(path, *rows[0])
    if len(rows) == 1:
        raise InputError(f"{path} holds a header and no trial; the search it is of did not finish one")
    read = [_read_row(path, line, cells) for line, cells in rows[1:]]
    trials = _numbered([(line, weights, score) for line, weights, score, _ in read])
    times = {times for *_, times in read}
    evaluation, iteration = times.pop() if len(times) == 1 else (None, None)
    return History(path, trials, evaluation, iteration)


def history_csv(trials: Sequence[tuple[BlockWeights, float]], seconds: float, total_seconds: float) -> str:
    """The text of a history as auto-MBW-rt writes it.

    trials: weights of all 27 blocks and the score of each, in evaluation order. seconds: of all evaluations;
    total_seconds: with what the sampler took. Raises InputError for weights of other blocks.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    for weights, score in trials:
        missing = [block for block in NAT_ORDER if block not in weights]
        if missing or len(weights) != len(NAT_ORDER):
            raise InputError(
                f"a history of auto-MBW-rt has a weight for each of the 27 blocks of SD1 and SD2, and these "
                f"trials have {len(weights)} (without {', '.join(missing) or 'none'}); write csv or json"
            )
        writer.writerow([*(weights[block] for block in NAT_ORDER), score, seconds, total_seconds])
    return out.getvalue()


def _check_header(path: Path, line: int, cells: Sequence[str]) -> None:
    found = tuple(cell.strip() for cell in cells)
    if found == HEADER:
        return
    weights = next((i for i, name in enumerate(found) if name != str(i)), len(found))
    if weights == 0:
        raise InputError(
            f"{path}, line {line}: the first line is {','.join(found)[:60]!r}, not the header "
            "0,1,…,26,score,eval_times,iter_times; give a history of auto-MBW-rt"
        )
    if weights != len(NAT_ORDER):
        raise InputError(
            f"{path}, line {line}: the header names {weights} block weights (0..{weights - 1}), a history "
            f"has {len(NAT_ORDER)} (0..26): which block the others are can't be told; give the original file"
        )
    raise InputError(
        f"{path}, line {line}: after the weights the header names {', '.join(found[weights:]) or 'nothing'}, "
        "where score, eval_times, iter_times are needed; give the original file"
    )


def _read_row(
    path: Path, line: int, cells: Sequence[str]
) -> tuple[int, BlockWeights, float, tuple[float, float]]:
    where = f"{path}, line {line}"
    if len(cells) != len(HEADER):
        raise InputError(
            f"{where}: has {len(cells)} columns where {len(HEADER)} are needed; restore or remove the line"
        )
    weights = {
        block: read_alpha(cell, where, f"column {column} ({block})")
        for column, (block, cell) in enumerate(zip(NAT_ORDER, cells, strict=False))
    }
    score, evaluation, iteration = (
        read_number(cell, where, name)
        for cell, name in zip(cells[len(NAT_ORDER) :], HEADER[len(NAT_ORDER) :], strict=True)
    )
    return line, weights, score, (evaluation, iteration)


def _numbered(rows: Sequence[tuple[int, BlockWeights, float]]) -> tuple[HistoryTrial, ...]:
    seen: dict[tuple[float, ...], int] = {}
    trials = []
    for number, (line, weights, score) in enumerate(rows):
        first = seen.setdefault(tuple(weights.values()), number)
        trials.append(HistoryTrial(number, line, weights, score, None if first == number else first))
    return tuple(trials)


def _repeat_note(trial: HistoryTrial, earlier: HistoryTrial) -> str:
    note = f"line {trial.line} has the weights of line {earlier.line}"
    if trial.score == earlier.score:
        return f"{note} and its score: it counts once"
    return f"{note} and another score ({trial.score:g}, not {earlier.score:g}): the earlier one counts"
