"""The trials of a node as the table that other programs get."""

from __future__ import annotations

from optimizer.formats.trials_table import TrialRow, TrialTable, blocks_in
from service.db.records import NodeRecord, TrialRecord
from service.db.states import TRIAL_ENDED, NodeKind
from service.db.store import Store
from service.errors import Conflict
from service.jobs import NodePlan
from service.nodes import node_of


def trial_table(store: Store, job_id: str, node_name: str | None) -> TrialTable:
    """The trials of a merge that ended, held-out ones included.

    node_name: by name or position; the final merge if not given. Raises NotFound, and Conflict for a node
    that is no merge.
    """
    node = node_of(store, job_id, node_name)
    if node.kind is not NodeKind.MERGE:
        raise Conflict(
            f"node {node.name} of job {job_id} scores one checkpoint without a search; name a merge"
        )
    plan = NodePlan.model_validate(node.plan)
    ended = store.trials(node.id, states=TRIAL_ENDED)
    rows = [_row(trial) for trial in ended]
    a, b = (_input_name(store, node, side) for side in "ab")
    return TrialTable(
        job=job_id,
        node=node.name,
        a=a,
        b=b,
        tally=plan.tally,
        scorers=[spec.scorer for spec in plan.scorers],
        blocks=blocks_in(rows),
        options=plan.search.choices.options_of_trials,
        trials=rows,
    )


def _row(trial: TrialRecord) -> TrialRow:
    return TrialRow(
        number=trial.number,
        kind=trial.kind.value,
        state=trial.state.value,
        score=trial.score,
        estimate=trial.estimate,
        standard_error=trial.standard_error,
        seconds=trial.seconds,
        reason=trial.reason,
        began=trial.created_at,
        ended=trial.ended_at,
        weights=trial.weights,
        choices=trial.choices or {},
        slopes=trial.slopes,
    )


def _input_name(store: Store, node: NodeRecord, side: str) -> str | None:
    made_by: int | None = getattr(node, f"{side}_node_id")
    model: str | None = getattr(node, f"{side}_model") or getattr(node, f"{side}_input")
    return model if made_by is None else store.node(made_by).output
