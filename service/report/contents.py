"""What a report tells of a job, gathered from the store: comparisons, gains, weights, time, failures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from optimizer.blocks import BLOCKS, SDXL_BLOCKS
from scoring.errors import InputError
from scoring.probes import Probe
from scoring.reward import Scale
from scoring.scorers.base import ScorerSpec
from scoring.scorers.cards import is_voted
from service.afterwards.retally import probe_scores
from service.confidence import Confidence, Gain, paired_gain, prompt_groups, winner_confidence
from service.db.records import JobRecord, NodeRecord, RenderRecord, TrialRecord
from service.db.states import TRIAL_ENDED, NodeKind, TrialKind, TrialState
from service.db.store import Store
from service.db.tree import final_node
from service.jobs import NodePlan
from service.progress import input_names, trials_planned
from service.report.plot import Search
from service.results import comparable, compared_trials, winner_warnings
from service.scale import scale_of

STAGES = ("propose", "merge", "render", "score", "slope")

Role = Literal["a", "b", "uniform", "leaf", "average", "winner"]


@dataclass(frozen=True)
class Contender:
    """A checkpoint as one trial scored it. scores: by probe; empty where some are missing."""

    role: Role
    name: str
    score: float
    renders: Mapping[int, RenderRecord]
    scores: Sequence[float]

    @property
    def label(self) -> str:
        """What people call it beside the others."""
        labels = {
            "a": f"A: {self.name}",
            "b": f"B: {self.name}",
            "uniform": "uniform merge of A and B",
            "leaf": self.name,
            "average": "uniform merge of all",
            "winner": "winner",
        }
        return labels[self.role]


@dataclass(frozen=True)
class Comparison:
    """A winner and what it has to beat, on the same probes."""

    probes: Sequence[Probe]
    heldout: bool
    tally: str
    rivals: Sequence[Contender]
    winner: Contender

    def best_rival(self) -> Contender | None:
        """The rival of the highest score, the first of equals."""
        return max(self.rivals, key=lambda rival: rival.score, default=None)

    def gain(self, rival: Contender | None) -> Gain | None:
        """The winner above a rival, over the probes; None where a score is missing."""
        if rival is None or not rival.scores or not self.winner.scores:
            return None
        return paired_gain(self.winner.scores, rival.scores, self.tally, prompt_groups(self.probes))


@dataclass(frozen=True)
class _Judge:
    """How the images of a comparison become scores. probes: how many there are."""

    probes: int
    scorers: Sequence[ScorerSpec]
    scale: Scale | None


@dataclass(frozen=True)
class Failure:
    """Trials of a node that failed for one reason."""

    reason: str
    numbers: Sequence[int]


@dataclass(frozen=True)
class NodeReport:
    """One node, as far as it is."""

    node: NodeRecord
    a: str
    b: str
    done: int
    planned: int
    best: TrialRecord | None
    comparison: Comparison | None
    gain: Gain | None
    confidence: Confidence | None
    by_scorer: Mapping[str, Sequence[float | None]]
    failures: Sequence[Failure]
    notices: Sequence[str]
    warnings: Sequence[str]


@dataclass(frozen=True)
class Effort:
    """What it took. seconds: of computing, over all trials; stages: those of them whose stage is known."""

    seconds: float
    renders: int
    render_seconds: float
    stages: Mapping[str, float]
    wall_seconds: float | None


@dataclass(frozen=True)
class Contents:
    """All that a report tells."""

    job: JobRecord
    nodes: Sequence[NodeReport]
    final: NodeReport
    result: Comparison | None
    searches: Sequence[Search]
    effort: Effort

    @property
    def leaf_scores(self) -> dict[str, float]:
        """Leaf -> its score in the merge that it goes into, as far as it is known."""
        return {
            rival.name: rival.score
            for each in self.merges
            for rival in (each.comparison.rivals if each.comparison else ())
            if rival.name in self.job.leaves
        }

    @property
    def is_watched(self) -> bool:
        """Whether a scorer watches."""
        return any(search.watched for search in self.searches)

    @property
    def merges(self) -> list[NodeReport]:
        """The nodes that search."""
        return [each for each in self.nodes if each.node.kind is NodeKind.MERGE]


def contents_of(store: Store, job_id: str) -> Contents:
    """What is known of a job by now. Raises NotFound."""
    job, nodes = store.job(job_id), store.nodes(job_id)
    trials = {node.id: store.trials(node.id) for node in nodes}
    reports = {node.id: _node_report(store, nodes, node, trials[node.id]) for node in nodes}
    begun = sorted((node for node in nodes if node.started_at), key=lambda node: str(node.started_at))
    final = reports[final_node(nodes).id]
    return Contents(
        job=job,
        nodes=list(reports.values()),
        final=final,
        result=_result(store, job, nodes, final),
        searches=[_search(node, trials[node.id]) for node in begun if node.kind is NodeKind.MERGE],
        effort=_effort(store, job, nodes, trials),
    )


def blocks_shown(merges: Sequence[NodeReport]) -> list[str]:
    """The blocks that any winner has a weight for, down and up the U, then those outside of it."""
    found = {block for merge in merges if merge.best for block in merge.best.weights}
    return [block for block in dict.fromkeys((*BLOCKS, *SDXL_BLOCKS)) if block in found]


def _node_report(
    store: Store, nodes: Sequence[NodeRecord], node: NodeRecord, trials: Sequence[TrialRecord]
) -> NodeReport:
    searched = [trial for trial in trials if trial.kind is TrialKind.SEARCH]
    a, b = input_names(nodes, node)
    comparison = _comparison(store, node, (a or "?", b or "?"))
    return NodeReport(
        node=node,
        a=a or "?",
        b=b or "?",
        done=sum(trial.state in TRIAL_ENDED for trial in searched),
        planned=trials_planned(node),
        best=store.best_trial(node.id),
        comparison=comparison,
        gain=None if comparison is None else comparison.gain(comparison.best_rival()),
        confidence=winner_confidence(store, node),
        by_scorer={} if comparison is None else _by_scorer(comparison),
        failures=_failures(trials),
        notices=store.notices(node.id),
        warnings=winner_warnings(store, node),
    )


def _comparison(store: Store, node: NodeRecord, names: tuple[str, str]) -> Comparison | None:
    """The winner of a merge beside A, B and their uniform merge, once there is one.

    On held-out probes as soon as all four are scored there.
    """
    if node.kind is not NodeKind.MERGE:
        return None
    plan = NodePlan.model_validate(node.plan)
    best = store.best_trial(node.id)
    if best is None:
        return None
    is_heldout, trials = compared_trials(store, node, best)
    judge = _judge(store, node, heldout=is_heldout)
    roles: tuple[Role, ...] = ("a", "b", "uniform", "winner")
    found = [
        _contender(store, role, name, trial, judge)
        for role, name, trial in zip(roles, (*names, "", ""), trials, strict=True)
    ]
    winner = found[-1]
    assert winner is not None, "the best trial has a score"
    return Comparison(
        probes=plan.heldout if is_heldout else plan.probes,
        heldout=is_heldout,
        tally=plan.tally,
        rivals=[rival for rival in found[:-1] if rival is not None],
        winner=winner,
    )


def _judge(store: Store, node: NodeRecord, *, heldout: bool) -> _Judge:
    plan = NodePlan.model_validate(node.plan)
    scale = scale_of(store, node.job_id, plan, plan.scorers)
    return _Judge(len(plan.heldout if heldout else plan.probes), plan.scorers, scale)


def _contender(
    store: Store,
    role: Role,
    name: str,
    trial: TrialRecord | None,
    judge: _Judge,
) -> Contender | None:
    """A trial as it is compared; None where it has no score."""
    if trial is None or trial.score is None:
        return None
    renders = store.renders(trial.id)
    scores: list[float] = []
    # Votes give a trial one number for all its probes: how that varies between probes is not known.
    if not any(is_voted(spec.scorer) for spec in judge.scorers):
        with suppress(InputError):
            scores = probe_scores(renders, judge.probes, judge.scorers, judge.scale)
    return Contender(role, name, trial.score, {render.probe: render for render in renders}, scores)


def _result(
    store: Store, job: JobRecord, nodes: Sequence[NodeRecord], final: NodeReport
) -> Comparison | None:
    """The final model beside the leaves, the best first, and the uniform merge of all of them.

    As far as they were scored on the final node's held-out probes, by its scorers and its tally.
    """
    own = final.comparison
    if own is None or not own.heldout:
        return own
    judge = _judge(store, final.node, heldout=True)
    leaves: dict[str, Contender | None] = {}
    average: Contender | None = None
    for node in comparable(nodes):
        best = store.best_trial(node.id)
        if node.kind is NodeKind.AVERAGE and best is not None:
            trial = store.find_trial(node.id, TrialKind.HELDOUT_WINNER, best.number)
            average = _contender(store, "average", "", trial, judge)
        elif node.kind is NodeKind.MERGE:
            for model, kind in ((node.a_model, TrialKind.HELDOUT_A), (node.b_model, TrialKind.HELDOUT_B)):
                if model in job.leaves:
                    trial = store.find_trial(node.id, kind, 0)
                    leaves[model] = _contender(store, "leaf", model, trial, judge)
    if len(job.leaves) == 2:
        average = next((replace(r, role="average") for r in own.rivals if r.role == "uniform"), None)
    ranked = sorted((leaf for leaf in leaves.values() if leaf), key=lambda leaf: -leaf.score)
    return replace(own, rivals=[*ranked, *([average] if average else [])])


def _by_scorer(comparison: Comparison) -> dict[str, list[float | None]]:
    """Scorer -> its mean for every rival and the winner, in their order; None where it judged not all."""
    contenders = [*comparison.rivals, comparison.winner]
    names = {name for each in contenders for render in each.renders.values() for name in render.scores}
    return {
        name: [_mean([render.scores.get(name) for render in each.renders.values()]) for each in contenders]
        for name in sorted(names)
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _failures(trials: Sequence[TrialRecord]) -> list[Failure]:
    by_reason: dict[str, list[int]] = defaultdict(list)
    for trial in trials:
        if trial.state is TrialState.FAILED:
            by_reason[trial.reason or "no reason was recorded"].append(trial.number)
    return [Failure(reason, numbers) for reason, numbers in by_reason.items()]


def _search(node: NodeRecord, trials: Sequence[TrialRecord]) -> Search:
    ended = {t.number: t for t in trials if t.kind is TrialKind.SEARCH and t.ended_at is not None}
    numbers = range(max(ended, default=-1) + 1)
    means = {number: trial.means or {} for number, trial in ended.items()}
    names = [spec["scorer"] for spec in node.plan.get("watch", [])]
    return Search(
        node.name,
        [ended[number].score if number in ended else None for number in numbers],
        {name: [means.get(number, {}).get(name) for number in numbers] for name in names},
        [number for number, trial in ended.items() if trial.warnings],
        {number: trial.estimate for number, trial in ended.items() if trial.estimate is not None},
    )


def _effort(
    store: Store, job: JobRecord, nodes: Sequence[NodeRecord], trials: Mapping[int, Sequence[TrialRecord]]
) -> Effort:
    totals = [store.render_totals(node.id) for node in nodes]
    stages: Counter[str] = Counter()
    for trial in (trial for found in trials.values() for trial in found):
        stages.update({name: (trial.timings or {}).get(name, 0.0) for name in STAGES})
    begun = [node.started_at for node in nodes if node.started_at]
    ended = max((t.ended_at for found in trials.values() for t in found if t.ended_at), default=None)
    return Effort(
        seconds=sum(trial.seconds or 0.0 for found in trials.values() for trial in found),
        renders=sum(count for count, _ in totals),
        render_seconds=sum(seconds for _, seconds in totals),
        stages={name: stages[name] for name in STAGES},
        wall_seconds=((job.ended_at or ended) - min(begun)).total_seconds() if begun and ended else None,
    )
