"""A node with thousands of trials: how long it takes to look at it and to go on with it.

The rows are those that a search writes, only written in bulk; no images lie behind them.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
import numpy as np
from sqlalchemy import insert
from sqlalchemy.orm import Session

from optimizer.blocks import uniform
from optimizer.checkpoints.architectures import blocks_of
from optimizer.search import BASELINES
from service.db.models import Event, Render, Score, Trial
from service.db.states import TrialKind, TrialState
from tests.storms.fleet import Member
from tests.storms.site import Site

LOADED = re.compile(r"^(\S+ \S+) .*models of node \d+ are loaded", re.M)
FIRST_RENDER = re.compile(r"^(\S+ \S+) .*rendered probes", re.M)
LOOKS, PAGE = 50, 100


@dataclass(frozen=True)
class Figures:
    """Of a node with many trials. All in seconds; `trials_…` is one page of a hundred trials.

    resume: from the loaded models to the first new render, which is part of it.
    """

    trials: int
    job: float
    trials_p50: float
    trials_p95: float
    resume: float


def measure(site: Site, trials: int) -> Figures:
    """Fill a node, look at it over HTTP, and let a worker go on with it."""
    job_id = site.queue(heldout=None, search={"sampler": "random", "trials": trials + 1000})
    fill(site, job_id, trials)
    site.fleet.start_api()
    url = f"{site.fleet.server}/api/v1/jobs/{job_id}"
    offsets = np.linspace(-1, trials - PAGE - 1, LOOKS).astype(int).tolist()
    with httpx.Client(timeout=60.0) as client:
        job = [seconds_of(client, url) for _ in range(LOOKS // 5)]
        pages = [seconds_of(client, f"{url}/trials?limit={PAGE}&after={after}") for after in offsets]
    worker = site.fleet.start_worker()
    site.wait(lambda: worker.renders() >= 1, "the first new render")
    worker.kill()
    return Figures(
        trials,
        statistics.median(job),
        statistics.median(pages),
        statistics.quantiles(pages, n=20)[-1],
        resumed_after(worker),
    )


def fill(site: Site, job_id: str, trials: int, images: Sequence[str] = ()) -> None:
    """Give the first node of a job so many finished search trials, with renders, scores and events.

    images: hashes that the renders have in turn; made up, with nothing behind them, where none are given.
    """
    node = site.node(job_id)
    probes = len(node.plan["probes"])
    blocks = blocks_of("emoji")
    drawn = np.random.default_rng(0)
    now, baselines = time.time(), list(BASELINES.values())
    rows: dict[Any, list[dict[str, Any]]] = {Trial: [], Render: [], Score: [], Event: []}
    for number in range(trials):
        weights = (
            uniform(blocks, baselines[number])
            if number < len(baselines)
            else dict(zip(blocks, drawn.random(len(blocks)).tolist(), strict=True))
        )
        trial_id, score = number + 1, float(drawn.random())
        rows[Trial].append(
            {
                "id": trial_id,
                "node_id": node.id,
                "kind": TrialKind.SEARCH,
                "number": number,
                "state": TrialState.DONE,
                "weights": weights,
                "score": score,
                "means": {"clip": score},
                "seconds": 0.1,
                "timings": {"propose": 0.01, "merge": 0.01, "render": 0.07, "score": 0.01, "store": 0.02},
                "created_at": now,
                "ended_at": now,
            }
        )
        data = {"kind": TrialKind.SEARCH, "number": number}
        about = {"job_id": job_id, "node_id": node.id, "at": now}
        rows[Event].append({**about, "kind": "trial.opened", "data": data})
        for probe in range(probes):
            render_id = number * probes + probe + 1
            rows[Render].append(
                {
                    "id": render_id,
                    "trial_id": trial_id,
                    "probe": probe,
                    "sha256": images[render_id % len(images)] if images else f"{render_id:064x}",
                    "seconds": 0.05,
                    "created_at": now,
                }
            )
            rows[Score].append({"render_id": render_id, "scorer": "clip", "value": score})
            stored = {"trial": trial_id, "probes": [probe]}
            rows[Event].append({**about, "kind": "render.stored", "data": stored})
        rows[Event].append({**about, "kind": "trial.done", "data": {**data, "score": score, "reason": None}})
    with Session(site.store.engine) as session, session.begin():
        for table, values in rows.items():
            session.execute(insert(table), values)


def seconds_of(client: httpx.Client, url: str) -> float:
    """How long an answer takes."""
    started = time.perf_counter()
    client.get(url).raise_for_status()
    return time.perf_counter() - started


def resumed_after(worker: Member) -> float:
    """Seconds from the loaded models to the first new render, by the worker's log."""
    loaded, rendered = (pattern.search(worker.says()) for pattern in (LOADED, FIRST_RENDER))
    assert loaded is not None, worker.says()
    assert rendered is not None, worker.says()
    return (moment(rendered[1]) - moment(loaded[1])).total_seconds()


def moment(text: str) -> datetime:
    """The time of a line in a log."""
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f")
