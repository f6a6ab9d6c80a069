"""kill -9 at random of workers and the API, during one job of four leaves.

The moments are drawn beforehand, from a seed: at any moment of a worker's or the API's life, while a worker
has only just begun a node and loads it, while it writes an image, and while it writes a merged file.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

from service.db.states import JOB_AT_REST
from service.images import TEMPORARY
from service.progress import trials_planned
from service.worker import IDLE_SECONDS
from tests.storms.fleet import Member
from tests.storms.outcome import Outcome, all_events, counted_twice, left_over
from tests.storms.site import Site
from tests.storms.watcher import EventReader, Watcher
from tests.tiny_models import job, write_models, write_reward

LEAVES = ("ann", "bob", "cat", "dan")
WORKERS = 2
PROBES = {"sampler": "Euler", "steps": 1, "cfg_scale": 1.0, "width": 32, "height": 32}
PATIENCE = 400.0
LOOK_SECONDS = 0.002
COUNT_SECONDS = 0.1
STREAM_SECONDS = 20.0
# What a worker logs when it begins a node, when a render is done, and when it begins the merged file.
LEASED, RENDERED, WRITING = "service.worker: node ", "rendered probes", "service.outputs: writing "

Stage = Literal["anywhere", "loading", "storing", "exporting", "api"]
# Shares of the kills; the rest strikes workers anywhere.
SHARES: dict[Stage, float] = {"loading": 0.2, "storing": 0.13, "exporting": 0.1, "api": 0.25}
# After which share of the renders the last kill comes at the latest.
LATEST: dict[Stage, float] = {"anywhere": 0.95, "loading": 0.7, "storing": 0.8, "exporting": 0.0, "api": 0.95}
# After which share a kill that has seen no sign strikes anywhere.
UNTIL: dict[Stage, float] = {"loading": 0.8, "storing": 0.9, "exporting": 1.0}
# How many seconds after its sign a kill comes at the latest.
SPREAD: dict[Stage, float] = {"anywhere": 0.2, "loading": 0.8, "storing": 0.0, "exporting": 0.05, "api": 0.2}


@dataclass(frozen=True)
class Kill:
    """One kill: of what, after which share of the job's renders is stored, and how long after its sign."""

    stage: Stage
    after: float
    delay: float


@dataclass
class Storm:
    """What a storm did and what it left.

    kills: how many hit at which stage. redone: renders that were finished and had to be made again. twice:
    trials and renders that were counted more than once. left_over: temporary files that nobody will remove.
    lost, outages, problems: see Watcher. events_missed: events that a reader of the stream did not get.
    """

    outcome: Outcome
    kills: Counter[str]
    redone: int
    twice: list[tuple[Any, ...]]
    left_over: list[str]
    lost: list[str]
    events_missed: list[int]
    outages: int
    problems: dict[int, set[str]]
    seconds: float


def four_models(folder: Path) -> Path:
    """Write four tiny models and a scorer; the models folder."""
    write_models(folder / "models", LEAVES)
    write_reward(folder / "scorers" / "reward")
    return folder / "models"


def tree_job(trials: int) -> dict[str, Any]:
    """A job of four leaves: three merges and the average, three probes a trial."""
    return job(
        leaves=list(LEAVES),
        probes={"defaults": PROBES, "prompts": ["a cat", "a red apple", "a boat"], "seeds": [1]},
        heldout={"defaults": PROBES, "prompts": ["a dog"], "seeds": [7]},
        search={"sampler": "gp", "trials": trials, "seed": 5},
    )


def draw_kills(count: int, seed: int) -> list[Kill]:
    """The kills of a storm by their moments; those of exports come whenever one begins."""
    drawn = random.Random(seed)
    stages: list[Stage] = [stage for stage, share in SHARES.items() for _ in range(round(share * count))]
    stages += ["anywhere"] * (count - len(stages))
    kills = [
        Kill(stage, drawn.uniform(0.0, LATEST[stage]), drawn.uniform(0.0, SPREAD[stage])) for stage in stages
    ]
    return sorted(kills, key=lambda kill: kill.after)


def run_storm(folder: Path, models: Path, trials: int, kills: Sequence[Kill]) -> Storm:
    """Submit the job over HTTP to an installation in `folder` and let these kills happen to it."""
    with Site(folder, models, models.parent / "scorers") as site:
        return _Raging(site, tree_job(trials)).run(kills)


class _Raging:
    """A storm while it goes on."""

    def __init__(self, site: Site, request: dict[str, Any]) -> None:
        self.site, self.fleet, self.settings, self.store = site, site.fleet, site.settings, site.store
        self.started = time.monotonic()
        self.api = self.fleet.start_api()
        self.workers = [self.fleet.start_worker() for _ in range(WORKERS)]
        answer = httpx.post(f"{self.fleet.server}/api/v1/jobs", json=request, timeout=60.0)
        assert answer.status_code == 201, answer.text
        self.job_id = str(answer.json()["id"])
        nodes = self.store.nodes(self.job_id)
        self.nodes = [node.id for node in nodes]
        self.planned = sum(len(node.plan["probes"]) * trials_planned(node) for node in nodes)
        self.kills: Counter[str] = Counter()

    def run(self, kills: Sequence[Kill]) -> Storm:
        """All kills, and the end of the job."""
        waiting, end = list(kills), self.started + PATIENCE
        server, job_id = self.fleet.server, self.job_id
        with Watcher(server, job_id) as watcher, EventReader(server, job_id) as events:
            while self.store.job(self.job_id).state not in JOB_AT_REST:
                assert time.monotonic() < end, f"the job did not end; kills so far: {self.kills}"
                self.workers = [w if w.is_alive else self.fleet.start_worker() for w in self.workers]
                self._strike(waiting, time.monotonic() + COUNT_SECONDS)
            watcher.look()
            events.wait_end(self.store.last_event_id(job_id), STREAM_SECONDS)
        # An idle worker sweeps what others left.
        time.sleep(3 * IDLE_SECONDS)
        outcome = self.site.outcome(self.job_id)
        return Storm(
            outcome,
            self.kills,
            self.fleet.renders() - outcome.renders,
            counted_twice(self.store, self.job_id),
            left_over(self.settings.data_dir),
            watcher.lost,
            sorted({event.id for event in all_events(self.store, job_id)} - set(events.seen)),
            watcher.outages,
            watcher.problems,
            time.monotonic() - self.started,
        )

    def _strike(self, waiting: list[Kill], end: float) -> None:
        """Look for the sign of a waiting kill until `end`, and do the first that has one."""
        stored = sum(self.store.render_totals(node)[0] for node in self.nodes) / self.planned
        due = [kill for kill in waiting if kill.after <= stored]
        while time.monotonic() < end:
            for kill in due:
                overdue = stored >= UNTIL.get(kill.stage, 0.0)
                victim = self._anywhere(kill) if overdue else self._hunted(kill)
                if victim is not None:
                    time.sleep(kill.delay)
                    self._kill(victim)
                    waiting.remove(kill)
                    return
            time.sleep(LOOK_SECONDS)

    def _anywhere(self, kill: Kill) -> Member:
        return self.api if kill.stage == "api" else self.workers[int(kill.after * 1e6) % len(self.workers)]

    def _hunted(self, kill: Kill) -> Member | None:
        """A worker that does what the kill is to strike, now."""
        match kill.stage:
            case "loading":
                return next((worker for worker in self.workers if _loads(worker)), None)
            case "storing":
                return next((worker for worker in self.workers if self._stores(worker)), None)
            case "exporting":
                return next((worker for worker in self.workers if _exports(worker)), None)
            case _:
                raise AssertionError(kill)

    def _kill(self, victim: Member) -> None:
        victim.kill()
        victim.wait()
        self.kills["api" if victim is self.api else self._struck(victim)] += 1
        if victim is self.api:
            self.api = self.fleet.start_api()

    def _struck(self, worker: Member) -> str:
        """What a killed worker was doing, by what it left."""
        if _exports(worker):
            return "exporting"
        if self._stores(worker):
            return "storing"
        if _loads(worker):
            return "loading"
        return "rendering" if LEASED in _now(worker) else "starting"

    def _stores(self, worker: Member) -> bool:
        return any((self.settings.renders_dir / TEMPORARY).glob(f"*.{worker.pid}.*.tmp"))


def _now(worker: Member) -> str:
    """What a worker has said since it leased the node that it works on; nothing before the first."""
    _, leased, said = worker.says().rpartition(LEASED)
    return leased + said


def _loads(worker: Member) -> bool:
    return LEASED in _now(worker) and RENDERED not in _now(worker)


def _exports(worker: Member) -> bool:
    return WRITING in _now(worker)
