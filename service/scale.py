"""What the scores of several scorers are measured by: the job's reference.

One leaf, the first, is rendered with the job's probes before anything else is searched or scored, in a node
of its own: `NodeKind.REFERENCE`. Its stored raw numbers give the scale of every node of the job, so that
scores of any two nodes compare and a resumed job computes the same to the bit. It costs one trial. The
scale of people's votes is fixed (scoring/scorers/human.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from scoring.errors import InputError
from scoring.reward import Scale, measure
from scoring.scorers.base import ScorerSpec
from scoring.scorers.cards import is_voted
from scoring.scorers.human import SPREAD
from service.db.states import NodeKind, NodeState, TrialKind
from service.db.store import Store
from service.jobs import NodePlan


def scale_of(store: Store, job_id: str, plan: NodePlan, specs: Sequence[ScorerSpec]) -> Scale | None:
    """What these scorers' numbers are measured by in a node of this plan; None where they count raw.

    specs: the plan's, or others that are judged by afterwards. Raises InputError when the reference is not
    done or lacks numbers of one of them.
    """
    if not plan.normalise or len(specs) < 2:
        return None
    nodes = store.nodes(job_id)
    reference = next((node for node in nodes if node.kind is NodeKind.REFERENCE), None)
    trial = None if reference is None else store.find_trial(reference.id, TrialKind.SEARCH, 0)
    if reference is None or trial is None or reference.state is not NodeState.DONE:
        raise InputError(
            "the reference, by which several scorers are normalised, is not done yet; wait for it"
        )
    automatic = [spec for spec in specs if not is_voted(spec.scorer)]
    measured = measure([render.scores for render in store.renders(trial.id)], automatic)
    return {**measured, **{spec.scorer: SPREAD for spec in specs if is_voted(spec.scorer)}}
