"""One node, from its present state to its end: a merge searched and written, or a model scored alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from optimizer.averaging import export_average
from optimizer.blocks import BlockWeights
from optimizer.recipes import AverageRecipe, Parent, Recipe, average_metadata
from optimizer.trial import Evaluator, PairEvaluator, Rendered
from scoring.probes import Probe
from service.catalog import digest
from service.db.records import NewCheckpoint, TrialRecord
from service.db.states import NodeKind
from service.node_context import NodeContext, Source
from service.outputs import Sealed, write_output
from service.recorder import Recorder
from service.results import result_scores
from service.trial_run import Judge, Trials


def run_node(context: NodeContext) -> None:
    """Do what is left of a leased node.

    Raises InputError (models changed or missing), NodePaused, ExportFailed, LeaseLost, Interrupted.
    """
    match context.node.kind:
        case NodeKind.MERGE:
            _run_merge(context)
        case NodeKind.AVERAGE:
            _run_average(context)
        case NodeKind.SCREEN:
            leaf = context.source("a")
            context.store.finish_node(context.lease, _score_alone(context, leaf.path), None)


def _run_merge(context: NodeContext) -> None:
    """Search the block weights, score the winner on held-out probes, write its file."""
    a, b = context.source("a"), context.source("b")
    evaluator = PairEvaluator(
        a.path,
        b.path,
        context.plan.scorers,
        device=context.device,
        dtype=context.dtype,
        max_batch=context.settings.max_batch,
        prediction_type=context.plan.prediction_type,
        inspections=(a.inspection, b.inspection),
    )

    def evaluate(
        weights: BlockWeights, probes: Sequence[Probe], todo: Sequence[int]
    ) -> Iterator[list[Rendered]]:
        return evaluator.evaluate(weights, probes, todo, context.check)

    judge = Judge(evaluator.blocks, evaluate, lambda: evaluator.seconds, evaluator.notices)
    with Recorder(context.store, context.lease, context.settings.renders_dir) as recorder:
        trials = Trials(context, judge, recorder)
        if context.node.stop_reason is None:
            trials.search()
        winner = context.store.best_trial(context.node.id)
        assert winner is not None, "a search does not end without one"
        heldout = trials.heldout(winner)
    context.check()
    recipe = _recipe(context, evaluator, winner, a, b)
    made = write_output(
        context,
        a.inspection.size,
        recipe.model_dump(mode="json"),
        lambda out, sealed: evaluator.export(winner.weights, out, recipe, sealed),
    )
    context.store.finish_node(context.lease, winner.score if heldout is None else heldout, made)


def _run_average(context: NodeContext) -> None:
    """Write the uniform merge of all leaves, and score it as the winner is scored."""
    leaves = context.store.job(context.lease.job_id).leaves
    sources = [context.leaf(name, sha256) for name, sha256 in leaves.items()]
    made = _average(context, sources)
    context.store.finish_node(context.lease, _score_alone(context, made.path), made)


def _average(context: NodeContext, sources: Sequence[Source]) -> NewCheckpoint:
    first = sources[0].inspection
    recipe = AverageRecipe(
        name=context.node.output,
        parents=[_parent(source) for source in sources],
        architecture=first.architecture,
        prediction_type=context.plan.prediction_type or first.prediction_type,
    )
    paths = [source.path for source in sources]
    write = partial(_export_average, paths, average_metadata(recipe))
    return write_output(context, first.size, recipe.model_dump(mode="json"), write)


def _export_average(paths: Sequence[Path], metadata: dict[str, str], out: Path, sealed: Sealed) -> None:
    export_average(paths, out, metadata=metadata, sealed=sealed)


def _score_alone(context: NodeContext, path: Path) -> float:
    """A checkpoint's score: on held-out probes where there are any, as a winner's."""
    evaluator = Evaluator(
        path,
        context.plan.scorers,
        device=context.device,
        dtype=context.dtype,
        max_batch=context.settings.max_batch,
        prediction_type=context.plan.prediction_type,
    )

    def evaluate(
        _weights: BlockWeights, probes: Sequence[Probe], todo: Sequence[int]
    ) -> Iterator[list[Rendered]]:
        return evaluator.evaluate(probes, todo, context.check)

    judge = Judge((), evaluate, lambda: evaluator.seconds, evaluator.notices)
    with Recorder(context.store, context.lease, context.settings.renders_dir) as recorder:
        trials = Trials(context, judge, recorder)
        score = trials.single()
        scored = context.store.best_trial(context.node.id)
        assert scored is not None, "the trial succeeded"
        # The leaves' ranking must not look at what the winner is judged on.
        heldout = None if context.node.kind is NodeKind.SCREEN else trials.heldout(scored)
    return score if heldout is None else heldout


def _recipe(
    context: NodeContext, evaluator: PairEvaluator, winner: TrialRecord, a: Source, b: Source
) -> Recipe:
    return Recipe(
        name=context.node.output,
        a=_parent(a),
        b=_parent(b),
        architecture=a.inspection.architecture,
        prediction_type=evaluator.prediction_type,
        weights=evaluator.file_weights(winner.weights),
        trials=len(context.store.ended_trials(context.node.id)),
        scores=result_scores(context.store, context.node),
    )


def _parent(source: Source) -> Parent:
    # The inspection has the recipes parsed; the merged file carries them as the strings they were.
    found: dict[str, Any] = source.inspection.metadata
    metadata = {k: v if isinstance(v, str) else json.dumps(v) for k, v in found.items()}
    return Parent(name=source.name, sha256=digest(source.inspection), legacy_hash=None, metadata=metadata)
