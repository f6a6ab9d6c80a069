"""Runs what has not been run yet, on so many processes, and keeps a line of JSON per finished search."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from threadpoolctl import threadpool_limits

from benchmarks.searching.arms import arms
from benchmarks.searching.objectives import Objective, interior, rough
from benchmarks.searching.runs import BudgetSpent, Recorder, Run
from benchmarks.searching.zoo import zoo_objective
from scoring.errors import InputError

FAMILIES = ("rough", "interior", "zoo")


@dataclass(frozen=True)
class Setup:
    """Where the histories lie, where runs and the zoo's files are kept, and the renders of a search."""

    histories: Path | None
    folder: Path
    budget: int

    @property
    def runs_file(self) -> Path:
        return self.folder / "runs.jsonl"

    def objective(self, family: str, number: int) -> Objective:
        """Objective `number` of a family. Raises InputError where it needs histories and has none."""
        match family:
            case "rough":
                if self.histories is None:
                    raise InputError(
                        "the family `rough` is fitted to histories: name their folder, --histories"
                    )
                return rough(self.histories, number)
            case "interior":
                return interior(number)
            case _:
                return zoo_objective(self.folder / "zoo", number)


@dataclass(frozen=True)
class Search:
    """A search to be run: one arm on objective `number` of a family, seeded with that number."""

    family: str
    number: int
    arm: str

    @property
    def objective(self) -> str:
        return f"{self.family}/{self.number}"


def searches(families: Sequence[str], numbers: Sequence[int], chosen: Sequence[str]) -> list[Search]:
    """All arms on the first objectives, then on the next: what is finished early can be compared."""
    return [Search(family, number, arm) for number in numbers for family in families for arm in chosen]


def search(setup: Setup, wanted: Search) -> Run:
    """Run one search."""
    recorder = Recorder(setup.objective(wanted.family, wanted.number), wanted.arm, setup.budget)
    with threadpool_limits(1):
        with suppress(BudgetSpent):
            arms(setup.histories)[wanted.arm](recorder, setup.budget, wanted.number)
        return recorder.finish()


def run_all(setup: Setup, wanted: Sequence[Search], jobs: int) -> Iterator[Run]:
    """Run what the folder has no line for, and yield each search as it is written."""
    setup.folder.mkdir(parents=True, exist_ok=True)
    finished = {(run.objective, run.arm) for run in read_runs(setup)}
    missing = [task for task in wanted if (task.objective, task.arm) not in finished]
    if jobs == 1:
        for task in missing:
            yield _kept(setup, search(setup, task))
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes to come
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = [pool.submit(search, setup, task) for task in missing]
        for future in as_completed(futures):
            yield _kept(setup, future.result())


def read_runs(setup: Setup) -> list[Run]:
    """The finished searches of this budget. A line that a kill cut short is left out: it is run again."""
    if not setup.runs_file.exists():
        return []
    runs = []
    for line in setup.runs_file.read_text().splitlines():
        with suppress(json.JSONDecodeError):
            runs.append(Run(**json.loads(line)))
    return [run for run in runs if run.budget == setup.budget]


def _kept(setup: Setup, run: Run) -> Run:
    with setup.runs_file.open("a") as out:
        out.write("\n" + json.dumps(run.as_json()))  # begins anew after a line that a kill cut short
    return run
