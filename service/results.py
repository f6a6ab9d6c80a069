"""What is known of a result by now: the scores of a winner and of what it has to beat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel, Field

from optimizer.elements import elements_in
from scoring.scorers.cards import is_voted
from service.db.records import NodeRecord, TrialRecord
from service.db.states import HELDOUT_KINDS, NodeKind, TrialKind
from service.db.store import Store
from service.db.tree import final_node

BASELINE_NAMES = ("a", "b", "uniform")
PHASES = ("search", "heldout")


class Scores(BaseModel):
    """What one checkpoint scored on the search probes and on the held-out ones."""

    search: float | None = None
    heldout: float | None = None


class TreeScores(BaseModel):
    """A job's result beside what it has to beat, all on the final node's probes."""

    leaves: dict[str, Scores] = Field(description="Every leaf alone, as far as it was scored.")
    average: Scores = Field(description="The uniform merge of all leaves.")
    winner: Scores = Field(description="The final model.")
    gain: float | None = Field(
        description="Winner above the best leaf and the uniform merge, on the search probes."
    )
    heldout_gain: float | None = Field(description="The same on held-out probes.")


def result_scores(store: Store, node: NodeRecord) -> dict[str, float]:
    """`search/a`, `search/winner`, `heldout/uniform`, …, as far as they are known."""
    best = store.best_trial(node.id)
    scores: dict[str, float | None] = {"search/winner": None if best is None else best.score}
    if node.kind is NodeKind.MERGE:
        first = store.trials(node.id, kinds=[TrialKind.SEARCH], limit=len(BASELINE_NAMES))
        baselines = {trial.number: trial.score for trial in first}
        scores |= {f"search/{name}": baselines.get(number) for number, name in enumerate(BASELINE_NAMES)}
    for trial in store.trials(node.id, kinds=HELDOUT_KINDS):
        # An extended search may have found another winner since this one was scored.
        if trial.kind is not TrialKind.HELDOUT_WINNER or (best and trial.number == best.number):
            scores[f"heldout/{trial.kind.value.removeprefix('heldout_')}"] = trial.score
    return {name: score for name, score in scores.items() if score is not None}


def compared_trials(
    store: Store, node: NodeRecord, best: TrialRecord
) -> tuple[bool, list[TrialRecord | None]]:
    """The trials by which A, B, the uniform merge and the winner of a merge are compared, in this order.

    True, and those on held-out probes, as soon as all four are scored there; else those of the search.
    """
    scored = {(trial.kind, trial.number): trial for trial in store.trials(node.id, kinds=HELDOUT_KINDS)}
    numbers = {kind: best.number if kind is TrialKind.HELDOUT_WINNER else 0 for kind in HELDOUT_KINDS}
    heldout = [scored.get(wanted) for wanted in numbers.items()]
    if all(trial is not None and trial.score is not None for trial in heldout):
        return True, heldout
    first = store.trials(node.id, kinds=[TrialKind.SEARCH], limit=len(BASELINE_NAMES))
    searched = {trial.number: trial for trial in first}
    return False, [*(searched.get(number) for number in range(len(BASELINE_NAMES))), best]


def winner_warnings(store: Store, node: NodeRecord) -> list[str]:
    """What the watch says of a node's best trial by now, on search probes and on held-out ones."""
    best = store.best_trial(node.id)
    if best is None:
        return []
    heldout = store.find_trial(node.id, TrialKind.HELDOUT_WINNER, best.number)
    on_heldout = [] if heldout is None else heldout.warnings or []
    return [
        *(f"the best trial, {best.number}: {said}" for said in best.warnings or []),
        *(f"the best trial, {best.number}, on held-out probes: {said}" for said in on_heldout),
    ]


def beside_blocks(weights: Mapping[str, float], choices: Mapping[str, str] | None) -> str:
    """What a trial has beside the weights of blocks, in words; "" where that is nothing.

    `text encoder b; IN01/attn2, IN02/attn2 0.72`: elements that share a weight are named together.
    """
    said = [f"{name.replace('_', ' ')} {option}" for name, option in (choices or {}).items()]
    alike: dict[float, list[str]] = {}
    for name in elements_in(weights):
        alike.setdefault(weights[name], []).append(name)
    return "; ".join([*said, *(f"{', '.join(names)} {alpha:.3g}" for alpha, names in alike.items())])


def gain(scores: dict[str, float], phase: str) -> float | None:
    """How far the winner is above the best of A, B and the uniform merge; None before all are known."""
    baselines = [scores.get(f"{phase}/{name}") for name in BASELINE_NAMES]
    return _gain(scores.get(f"{phase}/winner"), baselines)


def tree_scores(nodes: Sequence[NodeRecord], scores: dict[int, dict[str, float]]) -> TreeScores:
    """The result of a job from the scores of its nodes (node id -> `result_scores`).

    Leaves count where a node scored them with the final node's probes, held-out probes, scorers and tally:
    other numbers could not be compared.
    """
    final = final_node(nodes)
    leaves: dict[str, Scores] = {}
    average = Scores()
    for node in comparable(nodes):
        found = scores[node.id]
        if node.kind is NodeKind.AVERAGE:
            average = _scores(found, "winner")
        elif node.kind is NodeKind.SCREEN and node.a_model:
            leaves.setdefault(node.a_model, _scores(found, "winner"))
        elif node.kind is NodeKind.MERGE:
            for side, model in (("a", node.a_model), ("b", node.b_model)):
                if model:
                    leaves[model] = _scores(found, side)
    if len(leaves) == 2 and average == Scores():
        average = _scores(scores[final.id], "uniform")
    winner = _scores(scores[final.id], "winner")
    gains = [
        _gain(getattr(winner, phase), [getattr(s, phase) for s in (*leaves.values(), average)])
        for phase in PHASES
    ]
    return TreeScores(leaves=leaves, average=average, winner=winner, gain=gains[0], heldout_gain=gains[1])


def comparable(nodes: Sequence[NodeRecord]) -> list[NodeRecord]:
    """The nodes whose scores are measured as the final one's: same probes, scorers, scale and tally.

    Where people vote that is the final one alone: they compare the trials of one merge with each other.
    """
    final = final_node(nodes)
    if any(is_voted(spec["scorer"]) for spec in final.plan.get("scorers", [])):
        return [final]
    return [node for node in nodes if _judge(node) == _judge(final)]


def _scores(found: dict[str, float], which: str) -> Scores:
    return Scores(search=found.get(f"search/{which}"), heldout=found.get(f"heldout/{which}"))


def _judge(node: NodeRecord) -> list[object]:
    return [node.plan.get(name) for name in ("probes", "heldout", "scorers", "normalise", "tally")]


def _gain(winner: float | None, rivals: Iterable[float | None]) -> float | None:
    known = list(rivals)
    if winner is None or not known or None in known:
        return None
    return winner - max(score for score in known if score is not None)
