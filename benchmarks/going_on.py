"""Whether the expected gain of going on is true: what was told at many moments of finished searches, and what
the next trials really brought.

    python -m benchmarks.going_on --runs FILE ... [--histories DIR] [--kept FILE]

FILE is a runs.jsonl of `benchmarks.search`. It has the scores; the weights are proposed again, as a proposal
depends on the settings and on what was told alone. That takes up to a minute per search; --kept keeps them,
and whoever changes a sampler begins with a new file. Slopes are not in it: a search with slopes is gone
through only for the family `rough`, whose slopes are known, and needs --histories. The histories of
auto-MBW-rt in DIR, real searches of real models, are rows of their own.

A ratio is the mean of what was expected by the mean of what came, in brackets the 90 % bootstrap interval
over searches; a rank correlation is Spearman's, over all moments. Gains are of observed scores, in standard
deviations of their search. "told" is what the sampler's users see: "alike", "process" or what lies "between"
(optimizer/going_on.py).
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits

from benchmarks.searching.gaussian_process import Array
from benchmarks.searching.objectives import rough
from benchmarks.searching.runs import Run
from benchmarks.searching.table import Estimate, bootstrap
from optimizer.blocks import BLOCKS
from optimizer.formats.mbwrt_history import read_history
from optimizer.going_on import FEWEST, between, gain_of_more_alike, gains_of_a_process, outlook
from optimizer.search import BASELINES, SamplerName, SearchSettings, ToldTrial, carries_slopes, propose

ANSWERS = ("told", "alike", "process", "between")
EVERY = 6
"""So many trials lie between two moments."""
PATIENCE = 25
"""The real histories end 26 to 28 trials after their best, as their search was told."""


@dataclass(frozen=True)
class Searched:
    """A finished search. row: whose figures it belongs to; first: its first trial that was proposed.

    patience: it was stopped after so many trials without a better one; None where it went on to its end.
    """

    row: str
    sampler: SamplerName
    trials: Sequence[ToldTrial]
    first: int
    patience: int | None = None


class Kept:
    """Weights that were proposed again, by objective and arm, in a file where one is given."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._known: dict[str, list[list[float]]] = {}
        if file is not None and file.exists():
            self._known = json.loads(file.read_text())

    def get(self, run: Run) -> list[list[float]] | None:
        """A row of weights per trial, in the order of the run's blocks."""
        return self._known.get(f"{run.objective} {run.arm}")

    def put(self, run: Run, trials: Sequence[ToldTrial]) -> None:
        """Keep what was proposed for a run."""
        self._known[f"{run.objective} {run.arm}"] = [list(trial.weights.values()) for trial in trials]
        if self._file is not None:
            self._file.write_text(json.dumps(self._known))


def searches_of(runs: Sequence[Run], histories: Path | None, kept: Kept) -> Iterator[Searched]:
    """The runs of our own samplers that can be gone through again."""
    for run in runs:
        family, number = run.objective.split("/")
        if run.arm not in get_args(SamplerName) or (run.slopes and (family != "rough" or not histories)):
            continue
        blocks = list(run.best) or BLOCKS
        rows = kept.get(run)
        if rows is None:
            trials = _proposed_again(run, int(number), blocks, histories)
            kept.put(run, trials)
        else:
            trials = [
                ToldTrial(n, dict(zip(blocks, row, strict=True)), score)
                for n, (row, score) in enumerate(zip(rows, run.observed, strict=True))
            ]
        yield Searched(f"{family}, {run.arm}", _sampler(run), trials, len(BASELINES))


def _sampler(run: Run) -> SamplerName:
    return next(name for name in get_args(SamplerName) if name == run.arm)


def _proposed_again(run: Run, number: int, blocks: Sequence[str], histories: Path | None) -> list[ToldTrial]:
    settings = SearchSettings(sampler=_sampler(run), trials=run.budget, seed=number)
    told: list[ToldTrial] = []
    for trial, score in enumerate(run.observed):
        weights = propose(settings, blocks, trial, told)
        slopes = None
        if histories and carries_slopes(settings, trial):
            slopes = rough(histories, number).observe_slopes(weights)[1]
        told.append(ToldTrial(trial, weights, score, slopes))
    return told


def real_searches(folder: Path) -> Iterator[Searched]:
    """The histories of auto-MBW-rt in a folder."""
    for file in sorted(folder.glob("*.csv")):
        rows = read_history(file).distinct
        trials = [ToldTrial(number, row.weights, row.score) for number, row in enumerate(rows)]
        yield Searched("real histories", "tpe", trials, 0, PATIENCE)


def moments(searched: Searched, ahead: int) -> Array:
    """(M, 4): what came by the next `ahead` trials at so many moments, and the answers of ANSWERS."""
    names = list(searched.trials[0].weights)
    scores = np.array([trial.score for trial in searched.trials])
    points = np.array([list(trial.weights.values()) for trial in searched.trials])
    spread, rows = scores[searched.first :].std(), []
    for now in range(searched.first + FEWEST, len(scores) - ahead + 1, EVERY):
        best = float(scores[:now].max())
        # What came is not chance where the search would have ended had it not come.
        if searched.patience and now + ahead > scores[:now].argmax() + searched.patience:
            continue
        found = outlook(
            searched.sampler,
            searched.trials[:now],
            names,
            first=searched.first,
            incumbent=best,
            seconds=None,
            ahead=ahead,
        )
        assert found is not None
        alike = gain_of_more_alike(scores[searched.first : now], best, ahead)
        (process,) = gains_of_a_process(points[:now], scores[:now], best, [ahead])
        came = max(0.0, float(scores[now : now + ahead].max()) - best)
        rows.append([came, found.gain, alike, process, *between([alike], [process])])
    brought: Array = np.array(rows).reshape(-1, 1 + len(ANSWERS)) / spread
    return brought


@dataclass(frozen=True)
class Figures:
    """One answer in one row: expected by come, and the rank correlation."""

    ratio: Estimate
    rank: float


def figures(found: Sequence[Array]) -> Mapping[str, Figures]:
    """By answer, from the moments of every search."""
    whole = np.concatenate(found)
    sums = np.array([each.sum(0) for each in found])

    def ratio(column: int) -> Estimate:
        return bootstrap(len(found), lambda chosen: float(sums[chosen, column].sum() / sums[chosen, 0].sum()))

    return {
        answer: Figures(ratio(i), float(spearmanr(whole[:, 0], whole[:, i]).statistic))
        for i, answer in enumerate(ANSWERS, start=1)
    }


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--runs", type=Path, nargs="+", default=[], metavar="FILE", help="of benchmarks.search")
    add("--histories", type=Path, metavar="DIR", help="of auto-MBW-rt")
    add("--ahead", type=int, nargs="+", default=[10, 20], help="trials that are looked ahead")
    add("--kept", type=Path, metavar="FILE", help="keeps the weights that were proposed again")
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser.parse_args()


def read_runs(files: Sequence[Path]) -> list[Run]:
    """The searches of all files, each once; a line that a kill cut short is left out."""
    found: dict[tuple[str, str], Run] = {}
    for file in files:
        for line in file.read_text().splitlines():
            with suppress(json.JSONDecodeError):
                run = Run(**json.loads(line))
                found.setdefault((run.objective, run.arm), run)
    return list(found.values())


def main() -> None:
    arguments = parsed()
    rows: dict[tuple[str, int], list[Array]] = defaultdict(list)
    with threadpool_limits(1):
        real = real_searches(arguments.histories) if arguments.histories else iter(())
        runs = searches_of(read_runs(arguments.runs), arguments.histories, Kept(arguments.kept))
        for searched in (*real, *runs):
            for ahead in arguments.ahead:
                if len(seen := moments(searched, ahead)):
                    rows[searched.row, ahead].append(seen)
    for ahead in arguments.ahead:
        everything = [each for (_, other), found in list(rows.items()) if other == ahead for each in found]
        if everything:
            rows["all", ahead] = everything
    table = Table("searches", "ahead", "moments", "came, sd", *(f"{a}: ratio, rank" for a in ANSWERS))
    written: list[dict[str, Any]] = []
    for (row, ahead), found in sorted(rows.items(), key=lambda each: (each[0][1], each[0][0])):
        told, whole = figures(found), np.concatenate(found)
        cells = [f"{told[answer].ratio}, {told[answer].rank:+.2f}" for answer in ANSWERS]
        table.add_row(row, str(ahead), f"{len(whole)} of {len(found)}", f"{whole[:, 0].mean():.3f}", *cells)
        answers = {a: {"ratio": told[a].ratio.value, "rank": told[a].rank} for a in ANSWERS}
        written.append({"row": row, "ahead": ahead, "moments": len(whole), **answers})
    Console(width=150).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
