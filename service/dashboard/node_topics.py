"""What the page of a node reads, once for all browsers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from optimizer.blocks import BLOCKS, SDXL_BLOCKS, BlockWeights
from optimizer.elements import in_order
from optimizer.importance import Importance, block_importance
from optimizer.search import ToldTrial
from service.dashboard.snapshot import Topic
from service.db.records import NodeRecord, TrialRecord
from service.db.states import TrialKind, TrialState
from service.db.store import Store
from service.errors import NotFound
from service.jobs import NodePlan
from service.progress import JobProgress, NodeProgress, job_progress

ENDED = (TrialState.DONE, TrialState.FAILED)


@dataclass(frozen=True)
class NodeView:
    """A node as its page shows it. failed_renders: images of the trials that failed, by trial number."""

    job: JobProgress
    node: NodeRecord
    progress: NodeProgress
    plan: NodePlan
    trials: Sequence[TrialRecord]
    failed_renders: dict[int, int]
    importance: Importance | None

    @cached_property
    def searched(self) -> list[TrialRecord]:
        """The search trials that ended, by number."""
        return [t for t in self.trials if t.kind is TrialKind.SEARCH and t.state in ENDED]

    @cached_property
    def done(self) -> list[TrialRecord]:
        """The search trials that have a score."""
        return [trial for trial in self.searched if trial.score is not None]

    @cached_property
    def ranked(self) -> list[TrialRecord]:
        """The same, the best first."""
        return sorted(self.done, key=lambda trial: (-(trial.score or 0.0), trial.number))

    @cached_property
    def best(self) -> TrialRecord | None:
        return self.ranked[0] if self.ranked else None

    @cached_property
    def renders_by_then(self) -> list[int]:
        """Images rendered by the end of every ended search trial."""
        probes = len(self.plan.probes)
        each = [
            probes if t.state is TrialState.DONE else self.failed_renders.get(t.number, 0)
            for t in self.searched
        ]
        return list(accumulate(each))

    @cached_property
    def blocks(self) -> list[str]:
        """The blocks of this architecture in the UNet's order, each before its elements."""
        return blocks_in_order(self.done[0].weights if self.done else dict.fromkeys(BLOCKS, 0.0))


def blocks_in_order(weights: BlockWeights) -> list[str]:
    """The blocks that have a weight, in the UNet's order, each before its elements."""
    return in_order(weights, SDXL_BLOCKS if "LABEL_EMB" in weights else BLOCKS)


def node_topic(job_id: str, name: str) -> Topic[NodeView]:
    """One node of a job, by its name."""
    return Topic(("node", job_id, name), lambda store: _read(store, job_id, name), job_id=job_id)


def _read(store: Store, job_id: str, name: str) -> NodeView:
    job = job_progress(store, job_id)
    progress = next((node for node in job.nodes if node.name == name), None)
    if progress is None:
        names = ", ".join(node.name for node in job.nodes)
        raise NotFound(f"job {job.name} has no node {name!r}; its nodes are {names}")
    node = next(node for node in store.nodes(job_id) if node.name == name)
    trials = store.trials(node.id)
    told = [
        ToldTrial(t.number, t.weights, t.score)
        for t in trials
        if t.kind is TrialKind.SEARCH and t.state is TrialState.DONE
    ]
    return NodeView(
        job=job,
        node=node,
        progress=progress,
        plan=NodePlan.model_validate(node.plan),
        trials=trials,
        failed_renders=store.renders_of_failed(node.id),
        importance=block_importance(told),
    )
