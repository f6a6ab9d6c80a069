"""One node, from its present state to its end: a merge searched and written, or a model scored alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from optimizer.blocks import BlockWeights
from optimizer.checkpoints.hashes import HashCache
from optimizer.component_recipes import parents_at
from optimizer.exporting import export_recipe
from optimizer.recipes import AverageRecipe
from optimizer.rendered import Rendered
from optimizer.trial import Evaluator, PairEvaluator
from scoring.probes import Probe
from scoring.rendering.denoiser import BetweenSteps
from service.choosing import chosen_parts, encoder_files
from service.composing import compose, flat
from service.db.records import NewCheckpoint
from service.db.states import NodeKind
from service.node_context import NodeContext
from service.outputs import write_output
from service.prefetch import next_files, read_ahead
from service.recipe_of import merge_recipe, parent_of, recipe_scores
from service.recorder import Recorder
from service.sources import Source
from service.trial_run import Judge, Trials
from service.trial_slopes import Differentiable
from service.votes.run import VotedTrials

log = logging.getLogger(__name__)
LOADED = "models of node %d are loaded"


def run_node(context: NodeContext) -> None:
    """Do what is left of a leased node.

    Raises InputError (models changed or missing), NodePaused, ExportFailed, LeaseLost, Interrupted.
    """
    match context.node.kind:
        case NodeKind.MERGE:
            _run_merge(context)
        case NodeKind.AVERAGE:
            _run_average(context)
        case NodeKind.COMPOSE:
            context.store.finish_node(context.lease, None, compose(context))
        case NodeKind.SCREEN | NodeKind.REFERENCE:
            leaf = context.source("a")
            context.store.finish_node(context.lease, _score_alone(context, leaf.path), None)


def _run_merge(context: NodeContext) -> None:
    """Search the block weights, score the winner on held-out probes, write its file."""
    a, b = context.source("a"), context.source("b")
    hashes = HashCache(context.settings.cache_dir)
    encoders = encoder_files(context.plan, context.catalog, hashes, a, b)
    evaluator = PairEvaluator(
        a.path,
        b.path,
        context.plan.judges,
        device=context.device,
        dtype=context.dtype,
        max_batch=context.settings.resolved_max_batch(),
        compile=context.settings.compile,
        prediction_type=context.plan.prediction_type,
        embeddings=context.embeddings,
        inspections=(a.inspection, b.inspection),
        elements=context.plan.search.space.element_names,
        text_encoders=encoders,
    )
    _prepare(context, evaluator)
    judge = Judge(
        evaluator.blocks,
        evaluator.evaluate,
        lambda: evaluator.seconds,
        evaluator.notices,
        Differentiable(evaluator.slopes, evaluator.differentiable),
        evaluator.choose,
    )
    with Recorder(context.store, context.lease, context.settings.renders_dir) as recorder:
        trials = (VotedTrials if context.plan.voted else Trials)(context, judge, recorder)
        if context.node.stop_reason is None:
            trials.search()
        winner = context.store.best_trial(context.node.id)
        assert winner is not None, "a search does not end without one"
        heldout = trials.heldout(winner)
    context.check()
    parts = {**context.parts(), **chosen_parts(encoders, winner.choices)}
    recipe = merge_recipe(
        context.store,
        context.node,
        a,
        b,
        name=context.node.output,
        weights=evaluator.file_weights(winner.weights),
        scores=recipe_scores(context.store, context.node),
        components=parents_at(parts, hashes),
    )
    made = write_output(
        context,
        a.inspection.size,
        recipe.model_dump(mode="json"),
        partial(export_recipe, recipe, [a.path, b.path, *flat(parts)]),
    )
    context.store.finish_node(context.lease, winner.score if heldout is None else heldout, made)


def _run_average(context: NodeContext) -> None:
    """Write the uniform merge of all leaves, and score it as the winner is scored."""
    made = _average(context, context.leaves())
    context.store.finish_node(context.lease, _score_alone(context, made.path), made)


def _prepare(context: NodeContext, evaluator: Evaluator | PairEvaluator) -> None:
    """Once the models are loaded: batches that fit, and the files of the next node on their way."""
    log.info(LOADED, context.node.id)
    evaluator.fit_batches(context.plan.all_probes, context.settings.batches_file)
    # A CPU that renders has no time to inspect: the next node does that in any case.
    catalog = None if context.device == "cpu" else context.catalog
    read_ahead(next_files(context.store, context.catalog, context.node), catalog)


def _average(context: NodeContext, sources: Sequence[Source]) -> NewCheckpoint:
    first = sources[0].inspection
    recipe = AverageRecipe(
        name=context.node.output,
        parents=[parent_of(source) for source in sources],
        architecture=first.architecture,
        prediction_type=context.plan.prediction_type or first.prediction_type,
    )
    write = partial(export_recipe, recipe, [source.path for source in sources])
    return write_output(context, first.size, recipe.model_dump(mode="json"), write)


def _score_alone(context: NodeContext, path: Path) -> float:
    """A checkpoint's score: on held-out probes where there are any, as a winner's."""
    evaluator = Evaluator(
        path,
        context.plan.judges,
        device=context.device,
        dtype=context.dtype,
        max_batch=context.settings.resolved_max_batch(),
        compile=context.settings.compile,
        prediction_type=context.plan.prediction_type,
        embeddings=context.embeddings,
    )

    def evaluate(
        _weights: BlockWeights, probes: Sequence[Probe], todo: Sequence[int], between_steps: BetweenSteps
    ) -> Iterator[list[Rendered]]:
        return evaluator.evaluate(probes, todo, between_steps)

    _prepare(context, evaluator)
    judge = Judge((), evaluate, lambda: evaluator.seconds, evaluator.notices)
    with Recorder(context.store, context.lease, context.settings.renders_dir) as recorder:
        trials = Trials(context, judge, recorder)
        score = trials.single()
        scored = context.store.best_trial(context.node.id)
        assert scored is not None, "the trial succeeded"
        # The leaves' ranking must not look at what the winner is judged on.
        heldout = trials.heldout(scored) if context.node.kind is NodeKind.AVERAGE else None
    return score if heldout is None else heldout
