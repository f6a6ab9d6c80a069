"""Share of a node's wall time in which the device neither merges, renders nor scores.

Three models of the emoji zoo are merged one after the other by one worker, the worker's own code and a real
store. What the device did is read from the trials' timings and timestamps in SQL, so that a CPU is measured
too; on CUDA nvidia-smi is sampled beside it. Goal: at most 3 % of a node.
`python -m benchmarks.idle [--quick] [--json FILE]`
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from examples.emoji.assemble import assemble, assemble_reward
from examples.emoji.demo import JOB
from service.catalog import Catalog
from service.db.records import NodeRecord
from service.db.states import NodeKind, NodeState
from service.db.store import Store
from service.jobs import JobRequest
from service.planning import validate_job
from service.settings import Settings, load_settings
from service.worker import Worker

GOAL = 0.03
MEMBERS = ("animals", "food", "faces")
BUSY = ("merge", "render", "score")
ROWS = {
    "merge": "merging",
    "render": "rendering",
    "score": "scoring",
    "overlap": "of both at once",
    "load": "idle: models are loaded",
    "propose": "idle: weights are proposed",
    "rest": "idle: between batches and trials",
    "end": "idle: the file is written",
}
SAMPLE = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=100"]


def measure(trials: int, prompts: int, steps: int) -> dict[str, Any]:
    """Run the job and say of each of its nodes where its time went, in seconds."""
    with tempfile.TemporaryDirectory(prefix="autombw-idle-") as name:
        root = Path(name)
        assemble(root / "models", list(MEMBERS))
        assemble_reward(root / "scorers" / "emoji-clip")
        settings = load_settings(
            models_dir=root / "models", scorers_dir=root / "scorers", data_dir=root / "data"
        )
        store = Store(settings.database_url)
        try:
            with _utilization(settings) as samples:
                nodes = _run(settings, store, _request(trials, prompts, steps))
            found = [_of_node(store, node) for node in nodes]
        finally:
            store.close()
    wall = sum(node["wall"] for node in found)
    return {
        "device": settings.resolved_device(),
        "nodes": found,
        "idle_share": sum(node["idle_share"] * node["wall"] for node in found) / wall,
        "gpu_idle_samples": sum(sample == 0 for sample in samples) / len(samples) if samples else None,
        "goal": GOAL,
    }


def _request(trials: int, prompts: int, steps: int) -> JobRequest:
    """The zoo's own job, shorter."""
    request: dict[str, Any] = yaml.safe_load(JOB.read_text(encoding="utf-8"))
    for part in ("probes", "heldout"):
        request[part]["defaults"]["steps"] = steps
        request[part]["prompts"] = request[part]["prompts"][:prompts]
    changes = {
        "leaves": [f"emoji-{member}" for member in MEMBERS],
        "bracket": {"kind": "sequential"},
        "search": {"sampler": "gp", "trials": trials, "seed": 0},
        "average": False,
        "nodes": {},
    }
    return JobRequest.model_validate({**request, **changes})


def _run(settings: Settings, store: Store, request: JobRequest) -> list[NodeRecord]:
    queued = store.create_job(validate_job(request, settings, Catalog(settings.models_dir)))
    Worker(settings, store).run_job(queued.id)
    nodes = [node for node in store.nodes(queued.id) if node.kind is NodeKind.MERGE]
    failed = [f"{node.name}: {node.reason}" for node in nodes if node.state is not NodeState.DONE]
    if failed:
        raise SystemExit(f"the job did not run: {'; '.join(failed)}")
    return nodes


def _of_node(store: Store, node: NodeRecord) -> dict[str, Any]:
    """Where the time of a node went; the trials' work overlaps nothing but itself."""
    trials = sorted(store.trials(node.id), key=lambda trial: trial.created_at)
    assert node.started_at
    assert node.ended_at
    wall = (node.ended_at - node.started_at).total_seconds()
    stages = (*BUSY, "overlap", "propose")
    seconds = {stage: sum((trial.timings or {}).get(stage, 0.0) for trial in trials) for stage in stages}
    busy = sum(seconds[stage] for stage in BUSY) - seconds["overlap"]
    # A trial is opened after its weights are proposed.
    first = (trials[0].timings or {}).get("propose", 0.0)
    seconds["load"] = (trials[0].created_at - node.started_at).total_seconds() - first
    last = max(trial.ended_at for trial in trials if trial.ended_at is not None)
    seconds["end"] = (node.ended_at - last).total_seconds()
    seconds["rest"] = wall - busy - seconds["propose"] - seconds["load"] - seconds["end"]
    searching = wall - seconds["load"] - seconds["end"]
    return {
        "node": node.name,
        "trials": len(trials),
        "wall": wall,
        "seconds": seconds,
        "idle_share": 1 - busy / wall,
        "idle_share_of_trials": 1 - busy / searching,
    }


@contextmanager
def _utilization(settings: Settings) -> Iterator[list[int]]:
    """Percent of the time in which the GPU ran a kernel, ten times a second; empty without nvidia-smi."""
    samples: list[int] = []
    if not settings.resolved_device().startswith("cuda") or shutil.which(SAMPLE[0]) is None:
        yield samples
        return
    process = subprocess.Popen(SAMPLE, stdout=subprocess.PIPE, text=True)
    try:
        yield samples
    finally:
        process.terminate()
        out, _ = process.communicate()
        samples += [int(line) for line in out.splitlines() if line.strip().isdigit()]


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    nodes = found["nodes"]
    table = Table(f"seconds, on {found['device']}", *(f"node {node['node']}" for node in nodes))
    for stage, title in ROWS.items():
        table.add_row(
            title, *(f"{n['seconds'][stage]:.2f} ({n['seconds'][stage] / n['wall']:.1%})" for n in nodes)
        )
    table.add_section()
    table.add_row("the node", *(f"{node['wall']:.2f} ({node['trials']} trials)" for node in nodes))
    table.add_row("idle", *(f"{node['idle_share']:.1%}" for node in nodes))
    table.add_row("idle, from first trial to last", *(f"{n['idle_share_of_trials']:.1%}" for n in nodes))
    Console().print(table)
    if found["gpu_idle_samples"] is not None:
        print(f"nvidia-smi saw no kernel run in {found['gpu_idle_samples']:.1%} of its samples of the job")
    print(f"goal: at most {GOAL:.0%} of a node; here {found['idle_share']:.1%}")


def main() -> None:
    """Print the table; --json FILE writes the numbers; --quick renders less."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--quick", action="store_true", help="fits in a minute or two")
    arguments = parser.parse_args()
    found = measure(8, 8, 8) if arguments.quick else measure(60, 24, 20)
    show(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
