"""What a storm of kill -9 costs, and how a node of 10,000 trials is looked at and gone on with.

A job of four small random models is run twice over HTTP: undisturbed, and while workers and the API are
killed at random moments (`tests/storms/kill_storm.py`, from a seed). Both must leave the same, to the bit.
`python -m benchmarks.durability [--quick] [--seed N] [--json FILE]`
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.storms.kill_storm import draw_kills, four_models, run_storm
from tests.storms.many_trials import measure
from tests.storms.outcome import Outcome
from tests.storms.site import Site
from tests.tiny_models import write_models

KILLS, TRIALS = 30, 20
QUICK_KILLS, QUICK_TRIALS = 10, 5
MANY_TRIALS = 10_000
GOALS = {"trials_p95": 0.05, "resume": 2.0}


def storm_figures(folder: Path, models: Path, kills: int, trials: int, seed: int) -> dict[str, Any]:
    """Run the job twice and compare."""
    undisturbed = run_storm(folder / "undisturbed", models, trials, [])
    storm = run_storm(folder / "storm", models, trials, draw_kills(kills, seed))
    return {
        "kills": storm.kills.total(),
        "kills_at": dict(storm.kills),
        "renders": storm.outcome.renders,
        "renders_redone": storm.redone,
        "trials": len(undisturbed.outcome.trials),
        "trials_lost": len(lost_trials(undisturbed.outcome, storm.outcome)),
        "counted_twice": len(storm.twice),
        "same_to_the_bit": storm.outcome == undisturbed.outcome,
        "files_left_over": len(storm.left_over),
        "answers_lost": len(storm.lost),
        "events_missed": len(storm.events_missed),
        "seconds": storm.seconds,
        "seconds_undisturbed": undisturbed.seconds,
    }


def lost_trials(undisturbed: Outcome, disturbed: Outcome) -> list[tuple[str, str, int]]:
    """Trials that are not there, or are not the same."""
    return [which for which, trial in undisturbed.trials.items() if disturbed.trials.get(which) != trial]


def show(storm: dict[str, Any], many: dict[str, Any]) -> None:
    """Print both tables."""
    landed = ", ".join(f"{count} {stage}" for stage, count in sorted(storm["kills_at"].items()))
    table = Table("a job through kill -9", "", box=None)
    for name, value in {
        "kills survived": f"{storm['kills']} ({landed})",
        "renders redone": f"{storm['renders_redone']} of {storm['renders']}",
        "trials lost or changed": f"{storm['trials_lost']} of {storm['trials']}",
        "trials or renders counted twice": storm["counted_twice"],
        "events missed by a reader of the stream": storm["events_missed"],
        "files left half written": storm["files_left_over"],
        "trials, images, scores and files": "the same to the bit" if storm["same_to_the_bit"] else "DIFFER",
        "seconds": f"{storm['seconds']:.0f}; undisturbed {storm['seconds_undisturbed']:.0f}",
    }.items():
        table.add_row(name, str(value))
    Console().print(table)
    table = Table(f"a node of {many['trials']} trials", "", "goal", box=None)
    table.add_row("GET the job, median", f"{many['job'] * 1000:.0f} ms", "")
    table.add_row("GET 100 of its trials, median", f"{many['trials_p50'] * 1000:.0f} ms", "")
    table.add_row("the same, 95th percentile", f"{many['trials_p95'] * 1000:.0f} ms", "50 ms")
    table.add_row("loaded models to the first new render", f"{many['resume']:.2f} s", "2 s")
    Console().print(table)


def main() -> None:
    """Print the tables; --json FILE writes the numbers; --quick kills less often."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_KILLS} kills instead of {KILLS}")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills")
    arguments = parser.parse_args()
    kills, trials = (QUICK_KILLS, QUICK_TRIALS) if arguments.quick else (KILLS, TRIALS)
    with tempfile.TemporaryDirectory(prefix="autombw-durability-") as name:
        folder = Path(name)
        models = four_models(folder)
        storm = storm_figures(folder, models, kills, trials, arguments.seed)
        write_models(models)
        with Site(folder / "many", models, folder / "scorers") as site:
            many = asdict(measure(site, MANY_TRIALS))
    show(storm, many)
    if arguments.json:
        arguments.json.write_text(json.dumps({"storm": storm, "many_trials": many}, indent=2))


if __name__ == "__main__":
    main()
