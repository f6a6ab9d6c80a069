"""What is known of a node's result by now: scores of the winner and of what it has to beat."""

from __future__ import annotations

from service.db.states import HELDOUT_KINDS, TrialKind
from service.db.store import Store

BASELINE_NAMES = ("a", "b", "uniform")


def result_scores(store: Store, node_id: int) -> dict[str, float]:
    """`search/a`, `search/winner`, `heldout/uniform`, …, as far as they are known."""
    first = store.trials(node_id, kinds=[TrialKind.SEARCH], limit=len(BASELINE_NAMES))
    baselines = {trial.number: trial.score for trial in first}
    best = store.best_trial(node_id)
    heldout = {trial.kind: trial.score for trial in store.trials(node_id, kinds=HELDOUT_KINDS)}
    scores = {f"search/{name}": baselines.get(number) for number, name in enumerate(BASELINE_NAMES)}
    scores["search/winner"] = None if best is None else best.score
    scores |= {f"heldout/{kind.value.removeprefix('heldout_')}": heldout.get(kind) for kind in HELDOUT_KINDS}
    return {name: score for name, score in scores.items() if score is not None}


def gain(scores: dict[str, float], phase: str) -> float | None:
    """How far the winner is above the best of A, B and the uniform merge; None before all are known."""
    baselines = [scores[f"{phase}/{name}"] for name in BASELINE_NAMES if f"{phase}/{name}" in scores]
    winner = scores.get(f"{phase}/winner")
    return None if winner is None or len(baselines) < len(BASELINE_NAMES) else winner - max(baselines)
