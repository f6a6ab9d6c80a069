"""One node, from its present state to its merged file: search, held-out scores, export.

Every step looks first at what the store has, so that a node that was killed, paused or failed to export
goes on by the same code that a fresh one begins with.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch

from optimizer.blocks import BlockWeights, check_weights, uniform
from optimizer.checkpoints import Inspection, inspect_checkpoint, resolve_model
from optimizer.recipes import Parent, Recipe
from optimizer.search import ToldTrial, propose, stop_reason
from optimizer.trial import PairEvaluator, Rendered
from scoring.errors import InputError, TrialFailed
from scoring.probes import Probe
from scoring.reward import combine, tally
from service.catalog import digest
from service.db.records import Lease, NewCheckpoint, NodeRecord, TrialRecord
from service.db.states import HELDOUT_KINDS, TrialKind, TrialState
from service.db.store import Store
from service.jobs import NodePlan
from service.recorder import Recorder
from service.results import result_scores
from service.settings import Settings

log = logging.getLogger(__name__)
FAILURES_TO_PAUSE = 3


class NodePaused(RuntimeError):
    """The node stopped itself; the message is the diagnosis."""


class ExportFailed(RuntimeError):
    """The result could not be written; the message is the reason."""


class NodeRun:
    """The work on one leased node. `check` is called between images: it raises Interrupted or LeaseLost."""

    def __init__(self, settings: Settings, store: Store, lease: Lease, check: Callable[[], None]) -> None:
        self.settings, self.store, self.lease, self.check = settings, store, lease, check
        self.node: NodeRecord = store.node(lease.node_id)
        self.plan = NodePlan.model_validate(self.node.plan)

    def run(self) -> None:
        """Do what is left of the node.

        Raises InputError (models changed or missing), NodePaused, ExportFailed, LeaseLost, Interrupted.
        """
        evaluator = self._evaluator()
        with Recorder(self.store, self.lease, self.settings.renders_dir) as recorder:
            trials = _Trials(self, evaluator, recorder)
            if self.node.stop_reason is None:
                trials.search()
            winner = self.store.best_trial(self.node.id)
            assert winner is not None, "a search does not end without one"
            if self.plan.heldout:
                trials.heldout(winner.weights)
        self.check()
        self.store.finish_node(self.lease, self._export(evaluator, winner))

    def _evaluator(self) -> PairEvaluator:
        a, b = (resolve_model(self.settings.models_dir, name) for name in self._models())
        evaluator = PairEvaluator(
            a,
            b,
            self.plan.scorers,
            device=self.settings.resolved_device(),
            dtype=getattr(torch, self.settings.resolved_dtype()),
            max_batch=self.settings.max_batch,
            prediction_type=self.plan.prediction_type,
        )
        hashes = (self.node.a_sha256, self.node.b_sha256)
        for name, inspection, sha256 in zip(self._models(), evaluator.inspections, hashes, strict=True):
            if inspection.sha256 != sha256:
                raise InputError(
                    f"model {name!r} is not the file it was when the job was queued (sha256 "
                    f"{inspection.sha256}, then {sha256}); put that back or submit a new job"
                )
        return evaluator

    def _models(self) -> tuple[str, str]:
        if self.node.a_model is None or self.node.b_model is None:
            raise InputError(f"node {self.node.position} has an input that is not made yet")
        return self.node.a_model, self.node.b_model

    def _export(self, evaluator: PairEvaluator, winner: TrialRecord) -> NewCheckpoint:
        recipe = self._recipe(evaluator, winner)
        out = self.settings.outputs_dir / f"{self.node.output}.safetensors"
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            evaluator.export(winner.weights, out, recipe)
            inspection = inspect_checkpoint(out)
        except Exception as error:
            # Whatever it is, hours of search are behind it and must not be lost with it.
            log.exception("export of node %d failed", self.node.id)
            raise ExportFailed(
                f"{out} could not be written: {error}; make room or fix that, then retry"
            ) from error
        return NewCheckpoint(
            name=self.node.output,
            path=out,
            sha256=digest(inspection),
            size=out.stat().st_size,
            inspection=inspection.model_dump(mode="json"),
            recipe=recipe.model_dump(mode="json"),
        )

    def _recipe(self, evaluator: PairEvaluator, winner: TrialRecord) -> Recipe:
        a, b = (
            _parent(name, inspection)
            for name, inspection in zip(self._models(), evaluator.inspections, strict=True)
        )
        return Recipe(
            name=self.node.output,
            a=a,
            b=b,
            architecture=evaluator.inspections[0].architecture,
            prediction_type=evaluator.prediction_type,
            weights=winner.weights,
            trials=len(self.store.ended_trials(self.node.id)),
            scores=result_scores(self.store, self.node.id),
        )


class _Trials:
    """The trials of one run of a node."""

    def __init__(self, run: NodeRun, evaluator: PairEvaluator, recorder: Recorder) -> None:
        self.run, self.evaluator, self.recorder = run, evaluator, recorder
        self.plan, self.node_id = run.plan, run.node.id
        trials = run.store.trials(self.node_id, states=[TrialState.OPEN])
        self.left_open = {(trial.kind, trial.number): trial for trial in trials}

    def search(self) -> None:
        """Propose and evaluate until there is a reason to stop; what was told before counts."""
        ended = self.run.store.ended_trials(self.node_id)
        told = [ToldTrial(number, weights, score) for number, weights, score, _ in ended]
        elapsed = sum(seconds for *_, seconds in ended)
        while (reason := stop_reason(self.plan.search, told, elapsed)) is None:
            self.run.check()
            started = time.monotonic()
            number = len(told)
            weights = propose(self.plan.search, self.evaluator.blocks, number, told)
            proposing = time.monotonic() - started
            score, seconds = self._trial(TrialKind.SEARCH, number, weights, self.plan.probes, proposing)
            told.append(ToldTrial(number, weights, score))
            elapsed += seconds
        self.recorder.flush()
        if all(trial.score is None for trial in told):
            raise InputError(
                f"no trial succeeded ({reason}): the trials say why; submit a job without that cause"
            )
        self.run.store.end_search(self.run.lease, reason)

    def heldout(self, winner: BlockWeights) -> None:
        """Score A, B, the uniform merge and the winner on the probes that the search never saw."""
        blocks = self.evaluator.blocks
        weights = (uniform(blocks, 0.0), uniform(blocks, 1.0), uniform(blocks, 0.5), winner)
        for kind, chosen in zip(HELDOUT_KINDS, weights, strict=True):
            self.run.check()
            trial = self.run.store.find_trial(self.node_id, kind, 0)
            if trial is None or trial.state is TrialState.OPEN:
                self._trial(kind, 0, chosen, self.plan.heldout, 0.0)
        self.recorder.flush()

    def _trial(
        self, kind: TrialKind, number: int, weights: BlockWeights, probes: Sequence[Probe], proposing: float
    ) -> tuple[float | None, float]:
        """(score or None when it failed, seconds). Raises NodePaused after too many failures in a row."""
        started = time.monotonic()
        check_weights(weights, self.evaluator.blocks)
        scores, earlier = self._stored_scores(kind, number)
        self.recorder.open(kind, number, weights)
        try:
            self._evaluate(weights, probes, scores)
            score = tally(
                self.plan.tally, [combine(scores[i], self.plan.scorers) for i in range(len(probes))]
            )
        except (TrialFailed, InputError) as error:
            seconds = earlier + proposing + time.monotonic() - started
            in_row = self.recorder.fail(str(error), seconds, self._timings(proposing))
            if kind is TrialKind.SEARCH and in_row >= FAILURES_TO_PAUSE:
                raise NodePaused(f"{in_row} trials failed in a row, the last one: {error}") from error
            return None, seconds
        seconds = earlier + proposing + time.monotonic() - started
        self.recorder.finish(score, seconds, self._timings(proposing))
        return score, seconds

    def _stored_scores(self, kind: TrialKind, number: int) -> tuple[dict[int, dict[str, float]], float]:
        """What a killed worker left of this trial: probe -> scorer -> number, and the seconds it took."""
        left = self.left_open.pop((kind, number), None)
        renders = [] if left is None else self.run.store.renders(left.id)
        return {r.probe: r.scores for r in renders}, sum(r.seconds for r in renders)

    def _evaluate(
        self, weights: BlockWeights, probes: Sequence[Probe], scores: dict[int, dict[str, float]]
    ) -> None:
        """Render what is missing in `scores` and add it there and to the store."""
        missing = [i for i in range(len(probes)) if i not in scores]
        if not missing:
            return
        rendered: Rendered
        for rendered in self.evaluator.evaluate(weights, probes, missing):
            self.recorder.render(rendered)
            scores[rendered.probe] = rendered.scores
            self.run.check()

    def _timings(self, proposing: float) -> dict[str, float]:
        return {"propose": proposing, **asdict(self.evaluator.seconds)}


def _parent(name: str, inspection: Inspection) -> Parent:
    # The inspection has the recipes parsed; the merged file carries them as the strings they were.
    metadata = {k: v if isinstance(v, str) else json.dumps(v) for k, v in inspection.metadata.items()}
    return Parent(name=name, sha256=digest(inspection), legacy_hash=None, metadata=metadata)
