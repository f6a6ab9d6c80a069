"""Searches compared, per render: ours, and those of other projects run from their own packages.

    python -m benchmarks.search --histories DIR [--families rough interior zoo] [--seeds N] [--jobs N]

Every finished search is a line in FOLDER/runs.jsonl: run again, it goes on with what is missing. --table runs
nothing and shows what is there. --quick: two objectives of each simulated family, 20 renders, no peers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from benchmarks.searching.arms import PEERS, arms
from benchmarks.searching.goals import goals_table
from benchmarks.searching.plot import plot
from benchmarks.searching.runner import FAMILIES, Setup, read_runs, run_all, searches
from benchmarks.searching.table import family_table, gains_table, summary
from scoring.errors import InputError

QUICK_TRIALS, QUICK_SEEDS = 20, 2


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--histories", type=Path, metavar="DIR", help="of auto-MBW-rt; `rough` is fitted to them")
    add("--folder", type=Path, default=Path("search-benchmark"), help="keeps runs, models, scores")
    add("--families", nargs="+", choices=FAMILIES, default=["rough", "interior"])
    add("--arms", nargs="+", choices=list(arms()), metavar="NAME", help=", ".join(arms()))
    add("--trials", type=int, default=100, help="renders of one search, in trials")
    add("--seeds", type=int, default=10, help="objectives of each family, each with a seed of its own")
    add("--jobs", type=int, default=1, help="processes")
    add("--quick", action="store_true", help="only to see it work: a minute")
    add("--table", action="store_true", help="run nothing")
    add("--plot", type=Path, metavar="FILE", help="write the picture there (.svg, .png)")
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    console = Console(width=150)
    chosen = arguments.arms or list(arms())
    if arguments.quick:
        arguments.trials, arguments.seeds = QUICK_TRIALS, QUICK_SEEDS
        chosen = [name for name in chosen if name not in PEERS]
    setup = Setup(arguments.histories, arguments.folder, arguments.trials)
    if not arguments.table:
        wanted = searches(arguments.families, range(arguments.seeds), chosen)
        try:
            for run in run_all(setup, wanted, arguments.jobs):
                last = f"{run.truths[-1][1]:+.3f}" if run.truths else "nothing"
                console.print(f"{run.objective:12} {run.arm:16} {last} after {len(run.observed)} trials")
        except InputError as error:
            raise SystemExit(str(error)) from error
    runs = read_runs(setup)
    for family in FAMILIES:
        for table in (family_table(family, runs), gains_table(family, runs)):
            if table:
                console.print(table)
    console.print(goals_table(runs))
    if arguments.plot:
        plot(runs, arguments.plot)
    if arguments.json:
        arguments.json.write_text(json.dumps(summary(runs), indent=1) + "\n")


if __name__ == "__main__":
    main()
