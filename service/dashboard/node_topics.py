"""What the page of a node reads, once for all browsers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, takewhile
from typing import Any, TypeVar

from optimizer.blocks import BLOCKS, SDXL_BLOCKS, BlockWeights
from optimizer.elements import in_order
from optimizer.importance import Importance, block_importance
from optimizer.search import ToldTrial
from scoring.scorers.cards import is_voted
from service.dashboard.snapshot import Topic
from service.db.records import NodeRecord, TrialRecord
from service.db.states import TRIAL_ENDED, TrialKind, TrialState
from service.db.store import Store
from service.errors import NotFound
from service.going_on import GROWN
from service.jobs import NodePlan
from service.progress import JobProgress, NodeProgress
from service.recent_progress import recent_progress

ENDED = (TrialState.DONE, TrialState.FAILED)
T = TypeVar("T")


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
    made: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is made of this view the same for all browsers: made for the first of them alone."""
        if key not in self.made:
            self.made[key] = make()
        found: T = self.made[key]
        return found

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
    return Topic(("node", job_id, name), NodeReader(job_id, name), job_id=job_id)


class NodeReader:
    """Reads one node; of its trials only those that may have changed since the last time."""

    def __init__(self, job_id: str, name: str) -> None:
        self._job_id, self._name = job_id, name
        self._settled: list[TrialRecord] = []
        self._fitted: tuple[int, Importance | None] = (0, None)
        self._made: tuple[object, dict[Hashable, Any]] = (None, {})

    def __call__(self, store: Store) -> NodeView:
        """Raises NotFound."""
        job = recent_progress(store, self._job_id).progress
        progress = next((node for node in job.nodes if node.name == self._name), None)
        if progress is None:
            names = ", ".join(node.name for node in job.nodes)
            raise NotFound(f"job {job.name} has no node {self._name!r}; its nodes are {names}")
        node = next(node for node in store.nodes(self._job_id) if node.name == self._name)
        plan = NodePlan.model_validate(node.plan)
        trials = self._trials(store, node, plan)
        failed_renders = store.renders_of_failed(node.id)
        importance = self._importance(trials)
        return NodeView(
            job=job,
            node=node,
            progress=progress,
            plan=plan,
            trials=trials,
            failed_renders=failed_renders,
            importance=importance,
            made=self._made_of(progress, trials, failed_renders, importance),
        )

    def _made_of(
        self,
        progress: NodeProgress,
        trials: Sequence[TrialRecord],
        failed_renders: dict[int, int],
        importance: Importance | None,
    ) -> dict[Hashable, Any]:
        """What was made of the last view, where what it was made of is the same: a render was stored, but no
        trial ended."""
        ended = [(t.id, t.score, t.means, t.warnings) for t in trials if t.state in ENDED]
        of = (ended, progress.scores, progress.watched, failed_renders, importance)
        if of != self._made[0]:
            self._made = of, {}
        return self._made[1]

    def _trials(self, store: Store, node: NodeRecord, plan: NodePlan) -> list[TrialRecord]:
        """All trials by number. Those of the search that ended, up to the first that has not, stay as they
        are; but where people judge every count of their votes writes scores anew."""
        if any(is_voted(spec.scorer) for spec in plan.scorers):
            return store.trials(node.id)
        after = self._settled[-1].number if self._settled else -1
        new = store.trials(node.id, kinds=[TrialKind.SEARCH], after=after)
        others = store.trials(node.id, kinds=[kind for kind in TrialKind if kind is not TrialKind.SEARCH])
        settled = list(takewhile(lambda trial: trial.state in TRIAL_ENDED, new))
        searched = self._settled + new
        self._settled = self._settled + settled
        return (
            sorted([*searched, *others], key=lambda trial: (trial.number, trial.id)) if others else searched
        )

    def _importance(self, trials: Sequence[TrialRecord]) -> Importance | None:
        done = [t for t in trials if t.kind is TrialKind.SEARCH and t.state is TrialState.DONE]
        fitted, importance = self._fitted
        if not fitted <= len(done) < fitted * GROWN or importance is None:
            importance = block_importance([ToldTrial(t.number, t.weights, t.score) for t in done])
            self._fitted = len(done), importance
        return importance
