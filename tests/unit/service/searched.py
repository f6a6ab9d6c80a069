"""Jobs that were searched, as the store and the disk know them: rows, images, files. No model runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from optimizer.search import BASELINES
from scoring.probes import Probe
from scoring.reward import image_scores, tally
from scoring.scorers.base import ScorerSpec
from service.db.records import Lease, NewCheckpoint, NewNode, NewRender, NodeRecord
from service.db.states import HELDOUT_KINDS, NodeKind, TrialKind
from service.db.store import Store
from service.images import store_images
from service.jobs import NodePlan
from service.settings import Settings
from tests.contract.store_contract import new_job

BLOCKS = ("IN00", "IN05", "M00", "OUT05", "OUT11", "OUT")
SCORERS = [ScorerSpec(scorer="clip"), ScorerSpec(scorer="laion-v2", weight=0.5)]


def settings_in(folder: Path) -> Settings:
    """An installation of its own."""
    return Settings(data_dir=folder / "data", models_dir=folder / "models", device="cpu")


def plan(**changes: Any) -> dict[str, Any]:
    """A plan of three probes and two held-out ones, with changes."""
    given: dict[str, Any] = {
        "probes": [Probe(prompt=f"probe {i}", seed=i, width=32, height=32) for i in range(3)],
        "heldout": [Probe(prompt=f"held-out {i}", seed=i, width=32, height=32) for i in range(2)],
        "scorers": SCORERS,
        "tally": "arithmetic",
        "search": {"trials": 6},
        "prediction_type": None,
    }
    return NodePlan.model_validate({**given, **changes}).model_dump(mode="json")


def queue(
    store: Store,
    leaves: Sequence[str] = ("left", "right"),
    *,
    name: str = "a job",
    output: str = "out",
    hashes: dict[str, str] | None = None,
    **changes: Any,
) -> str:
    """A job over these leaves with a plan that has changes; with more than two, the average is scored too.

    hashes: of leaves whose sha256 matters.
    """
    job = new_job(output, leaves)
    job = replace(job, leaves={**job.leaves, **(hashes or {})})
    nodes = [replace(node, plan=plan(**changes)) for node in job.nodes]
    if len(leaves) > 2:
        nodes.append(
            NewNode("average", NodeKind.AVERAGE, 0, None, None, f"{output}-average", plan(**changes))
        )
    return store.create_job(replace(job, name=name, nodes=nodes)).id


def leased(store: Store, job_id: str) -> Lease:
    """The lease of the job's next node."""
    lease = store.lease_node("host:1:w", 30, job_id=job_id)
    assert lease is not None
    return lease


def search_all(store: Store, settings: Settings, job_id: str, trials: int = 6) -> None:
    """Every node of the job, from its first trial to its file."""
    while (lease := store.lease_node("host:1:w", 30, job_id=job_id)) is not None:
        search(store, settings, lease, trials)
        finish(store, settings, lease)


def search(store: Store, settings: Settings, lease: Lease, trials: int = 6) -> None:
    """The search trials of a node and its held-out ones; a scored checkpoint has one of each."""
    node = store.node(lease.node_id)
    merge = node.kind is NodeKind.MERGE
    for number in range(trials if merge else 1):
        run_trial(store, settings, lease, TrialKind.SEARCH, number)
    store.end_search(lease, f"all {trials} trials are done")
    best = store.best_trial(node.id)
    assert best is not None
    for kind in HELDOUT_KINDS if merge else HELDOUT_KINDS[-1:]:
        number = best.number if kind is TrialKind.HELDOUT_WINNER else 0
        run_trial(store, settings, lease, kind, number)


def run_trial(
    store: Store,
    settings: Settings,
    lease: Lease,
    kind: TrialKind,
    number: int,
    *,
    scores: Sequence[dict[str, float]] | None = None,
) -> int:
    """One trial with its renders. scores: of each probe; by the node's and the trial's name if not given."""
    node = store.node(lease.node_id)
    given = NodePlan.model_validate(node.plan)
    probes = given.probes if kind is TrialKind.SEARCH else given.heldout
    judged = scores or [made_up_scores(node, kind, number, probe) for probe in range(len(probes))]
    trial = store.open_trial(lease, kind, number, weights_of(number) if node.kind is NodeKind.MERGE else {})
    hashes = store_images(
        settings.renders_dir, [image(f"{node.name} {kind} {number} {probe}") for probe in range(len(probes))]
    )
    renders = [NewRender(i, sha256, 0.25, judged[i]) for i, sha256 in enumerate(hashes)]
    store.add_renders(lease, trial.id, renders)
    score = tally(given.tally, image_scores(judged, given.scorers))
    store.finish_trial(lease, trial.id, score, 1.5, {"merge": 0.1, "render": 1.2, "score": 0.2})
    return trial.id


def finish(store: Store, settings: Settings, lease: Lease) -> None:
    """The node's end, with a small file where its checkpoint would be."""
    node = store.node(lease.node_id)
    settings.outputs_dir.mkdir(parents=True, exist_ok=True)
    out = settings.outputs_dir / f"{node.output}.safetensors"
    out.write_bytes(node.output.encode() * 1000)
    sha256 = hashlib.sha256(out.read_bytes()).hexdigest()
    made = NewCheckpoint(node.output, out, sha256, out.stat().st_size, {}, {})
    best = store.best_trial(node.id)
    store.finish_node(lease, None if best is None else best.score, made)


def weights_of(number: int) -> dict[str, float]:
    """Block weights of a trial: the baselines, then some that depend on its number."""
    alphas = list(BASELINES.values())
    if number < len(alphas):
        return dict.fromkeys(BLOCKS, alphas[number])
    return {block: fraction(f"{number} {block}") for block in BLOCKS}


def made_up_scores(node: NodeRecord, kind: TrialKind, number: int, probe: int) -> dict[str, float]:
    """Numbers as clip and laion-v2 would give them, the same every time."""
    where = f"{node.name} {kind} {number} {probe}"
    return {"clip": 0.2 + 0.1 * fraction(where), "laion-v2": 5 + fraction(f"laion {where}")}


def fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


def image(text: str) -> Image.Image:
    """A small picture that depends on the text alone."""
    colour = hashlib.sha256(text.encode()).digest()[:3]
    return Image.new("RGB", (32, 32), tuple(colour))
