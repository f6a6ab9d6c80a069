"""Share of a trial's wall time that is not merge, render or score: SQL, files, sampler, bookkeeping.

A real node is run: a random model of the zoo's size, a real store, the worker's own code. Probes are chosen
so that a trial takes about half a second. Goal: at most 3 %.
`python -m benchmarks.overhead [--quick] [--json FILE]`
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from service.catalog import Catalog
from service.db.records import TrialRecord
from service.db.states import TrialState
from service.db.store import Store
from service.jobs import JobRequest
from service.planning import validate_job
from service.settings import Settings, load_settings
from service.worker import Worker
from tests.tiny_models import job, write_models, write_reward

GOAL = 0.03
TRIAL_SECONDS = 0.5
WARM_UP = 3
STAGES = ("merge", "render", "score")


def measure(trials: int, sampler: str) -> dict[str, Any]:
    """Run one node and sum up the times of its trials after the first few."""
    with tempfile.TemporaryDirectory(prefix="autombw-overhead-") as folder:
        root = Path(folder)
        write_models(root / "models")
        write_reward(root / "scorers" / "reward")
        settings = load_settings(
            models_dir=root / "models", scorers_dir=root / "scorers", data_dir=root / "data"
        )
        store = Store(settings.database_url)
        try:
            pilot = _run(settings, store, WARM_UP, "random", steps=4, output="pilot")
            # The time of a trial grows with its steps, nearly in proportion.
            per_step = _wall(pilot, 1) / (len(pilot) - 1) / 4
            steps = max(2, round(TRIAL_SECONDS / per_step))
            return _sum_up(_run(settings, store, trials, sampler, steps=steps, output="measured"), steps)
        finally:
            store.close()


def _run(
    settings: Settings, store: Store, trials: int, sampler: str, *, steps: int, output: str
) -> list[TrialRecord]:
    probe = {"defaults": {"sampler": "Euler", "steps": steps, "width": 32, "height": 32}}
    request = JobRequest.model_validate(
        job(
            output=output,
            heldout=None,
            probes={**probe, "prompts": ["a cat", "a dog", "a red apple"], "seeds": [1, 2, 3, 4]},
            search={"sampler": sampler, "trials": trials},
        )
    )
    queued = store.create_job(validate_job(request, settings, Catalog(settings.models_dir)))
    Worker(settings, store).run_job(queued.id)
    found = store.trials(store.nodes(queued.id)[0].id)
    failed = [trial.reason for trial in found if trial.state is not TrialState.DONE]
    if failed or len(found) < trials:
        raise SystemExit(f"the node did not run: {failed or store.nodes(queued.id)[0].reason}")
    return found


def _sum_up(trials: list[TrialRecord], steps: int) -> dict[str, Any]:
    wall = _wall(trials, WARM_UP)
    counted = trials[WARM_UP:]
    stages = {name: sum((t.timings or {})[name] for t in counted) for name in (*STAGES, "propose", "store")}
    overhead = wall - sum(stages[name] for name in STAGES)
    return {
        "trials": len(counted),
        "steps": steps,
        "seconds_per_trial": wall / len(counted),
        "seconds": stages,
        "overhead_share": overhead / wall,
        "goal": GOAL,
    }


def _wall(trials: list[TrialRecord], first: int) -> float:
    """Seconds from the end of the trial before number `first` to the end of the last: gaps count too."""
    start, end = trials[first - 1].ended_at, trials[-1].ended_at
    if start is None or end is None:
        raise ValueError("a trial did not end")
    return (end - start).total_seconds()


def main() -> None:
    """Print the table; --json FILE writes the numbers; --quick takes fewer trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--quick", action="store_true", help="fits in a minute")
    parser.add_argument("--sampler", default="gp", choices=["gp", "tpe", "cmaes", "random"])
    arguments = parser.parse_args()
    found = measure(15 if arguments.quick else 60, arguments.sampler)
    table = Table("stage", "ms a trial", "share")
    wall = found["seconds_per_trial"]
    for name, seconds in found["seconds"].items():
        per_trial = seconds / found["trials"]
        table.add_row(
            name + (" (behind)" if name == "store" else ""),
            f"{per_trial * 1000:.1f}",
            f"{per_trial / wall:.1%}",
        )
    table.add_row("a trial", f"{wall * 1000:.1f}", "100 %")
    table.add_row(
        "overhead", f"{wall * found['overhead_share'] * 1000:.1f}", f"{found['overhead_share']:.1%}"
    )
    Console().print(table)
    print(f"goal: at most {GOAL:.0%} at {TRIAL_SECONDS} s a trial")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
