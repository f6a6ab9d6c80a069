"""The trials of one run of a node: proposed, rendered, scored, stored.

Every trial looks first at what the store has of it, so that a node that was killed or paused goes on by the
same code that a fresh one begins with.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean

from optimizer.blocks import BlockWeights, check_weights
from optimizer.choices import Choices
from optimizer.rendered import Rendered, StageSeconds
from optimizer.search import (
    BASELINES,
    Candidate,
    ToldTrial,
    baseline_candidate,
    best_that_may_win,
    may_win,
    next_trial,
    stop_reason,
)
from scoring.errors import InputError, TrialFailed
from scoring.probes import Probe
from scoring.reward import Scale, image_scores, measure, tally
from scoring.watch import Judged, watch_warnings
from service.db.records import Looks, TrialRecord
from service.db.states import HELDOUT_KINDS, NodeKind, TrialKind, TrialState
from service.drafted import Drafts
from service.logs import about
from service.node_context import NodeContext, NodePaused
from service.race import Behind, Race
from service.recorder import Recorder
from service.scale import scale_of
from service.tracing import span, traced
from service.trial_slopes import Differentiable, Evaluate, TrialSlopes, slopes_of

log = logging.getLogger(__name__)
FAILURES_TO_PAUSE = 3
EQUAL_SCORES_TO_FAIL = 3
BASELINE_LABELS = ("A", "B", "uniform")
# What a trial may write before the room on the disk is looked at again: far above any probe's image.
BYTES_PER_IMAGE = 8_000_000


@dataclass(frozen=True)
class Judge:
    """How block weights become images with scores.

    evaluate: (weights, probes, indices that are wanted, what to call after every denoising step) -> what was
    rendered, batch by batch. seconds: where the time of the last evaluation went. notices: what people should
    know of the evaluations so far. differentiable: how the same is had with slopes, where it is. choose: what
    follows is evaluated with these choices.
    """

    blocks: tuple[str, ...]
    evaluate: Evaluate
    seconds: Callable[[], StageSeconds]
    notices: Sequence[str]
    differentiable: Differentiable | None = None
    choose: Callable[[Choices], None] = lambda _: None


class Trials:
    """The trials of one run of a node."""

    def __init__(self, context: NodeContext, judge: Judge, recorder: Recorder) -> None:
        self.context, self.judge, self.recorder = context, judge, recorder
        self.plan, self.store, self.node_id = context.plan, context.store, context.node.id
        trials = self.store.trials(self.node_id, states=[TrialState.OPEN])
        self._told: list[ToldTrial] = []
        self._elapsed = 0.0
        self._said = 0
        self._compared: dict[tuple[TrialKind, int], Sequence[Judged]] = {}
        self._slopes: TrialSlopes | None = None
        self._shares: dict[int, BlockWeights] = {}
        self._stages = StageSeconds()
        self._race: Race | None = None
        self._drafts: Drafts | None = None
        self._scale: Scale | None = None
        if context.node.kind is not NodeKind.REFERENCE:
            self._scale = scale_of(self.store, context.node.job_id, self.plan, self.plan.scorers)
        self._left_open = {(trial.kind, trial.number): trial for trial in trials}

    def search(self) -> None:
        """Propose and evaluate until there is a reason to stop; what was told before counts.

        Raises NodePaused after too many failures in a row, InputError when no trial succeeded.
        """
        ended = self.store.ended_trials(self.node_id)
        self._told = [
            ToldTrial(t.number, t.weights, t.score, t.slopes, t.expected, t.choices or {}, t.seconds)
            for t in ended
        ]
        self._elapsed = sum(trial.seconds or 0.0 for trial in ended)
        self._check_same_blocks()
        self._slopes = TrialSlopes(
            self.judge.evaluate, self.judge.differentiable, self.plan, self._scale, self._note
        )
        self._race = self._race_so_far() if self.plan.search.racing else None
        drafts = self.plan.search.drafts
        self._drafts = Drafts.of_node(drafts, self.store, self.node_id) if drafts is not None else None
        while (reason := stop_reason(self.plan.search, self._told, self._elapsed)) is None:
            self.context.check()
            started = time.monotonic()
            number = len(self._told)
            candidate = next_trial(self.plan.search, self.judge.blocks, number, self._told)
            proposing = time.monotonic() - started
            with about(trial=number), span("trial", job=self.context.lease.job_id, number=number):
                drafting = self._draft(number, candidate)
                told = self._trial(
                    TrialKind.SEARCH, number, candidate, proposing=proposing, drafting=drafting
                )
            self._told.append(told)
        self._end_search(reason)

    def _end_search(self, reason: str) -> None:
        """Raises InputError when no trial succeeded."""
        self.recorder.flush()
        if self.store.best_trial(self.node_id) is None:
            scored = any(trial.score is not None for trial in self._told)
            what = "no trial within search.space succeeded" if scored else "no trial succeeded"
            raise InputError(f"{what} ({reason}): the trials say why; submit a job without that cause")
        self.store.end_search(self.context.lease, reason)

    def single(self) -> float:
        """The one trial of a checkpoint that is scored without a search. Raises InputError when it failed."""
        trial = self.store.find_trial(self.node_id, TrialKind.SEARCH, 0)
        if trial is None or trial.state is TrialState.OPEN:
            self._trial(TrialKind.SEARCH, 0, Candidate({}))
            self.recorder.flush()
            trial = self.store.find_trial(self.node_id, TrialKind.SEARCH, 0)
        if trial is None or trial.score is None:
            raise InputError(f"it could not be scored: {trial.reason if trial else 'no trial'}")
        return trial.score

    def heldout(self, winner: TrialRecord) -> float | None:
        """Score the winner, and what it has to beat, on the probes that the search never saw.

        Returns the winner's score; None where there are no such probes or it could not be scored.
        """
        if not self.plan.heldout:
            return None
        blocks = self.judge.blocks
        best = Candidate(winner.weights, winner.choices or {})
        rivals = [baseline_candidate(self.plan.search, blocks, name) for name in BASELINES]
        wanted = list(zip(HELDOUT_KINDS, [*rivals, best], strict=True))
        wanted = wanted if blocks else wanted[-1:]
        for kind, chosen in wanted:
            self.context.check()
            number = winner.number if kind is TrialKind.HELDOUT_WINNER else 0
            trial = self.store.find_trial(self.node_id, kind, number)
            if trial is None or trial.state is TrialState.OPEN:
                self._trial(kind, number, chosen)
        self.recorder.flush()
        scored = self.store.find_trial(self.node_id, TrialKind.HELDOUT_WINNER, winner.number)
        return None if scored is None else scored.score

    def _draft(self, number: int, candidate: Candidate) -> float:
        """Make the draft of a search trial where it is to have one. Returns the seconds that it took."""
        if self._drafts is None or not self._drafts.wanted(number):
            return 0.0
        trial = self.store.find_trial(self.node_id, TrialKind.DRAFT, number)
        if trial is not None and trial.state is not TrialState.OPEN:
            return trial.seconds or 0.0
        before = self._elapsed
        told = self._trial(TrialKind.DRAFT, number, candidate)
        seconds, self._elapsed = self._elapsed - before, before  # They count with the trial's own.
        if told.score is not None:
            self._drafts.drafted(number, told.score)
        return seconds

    def _trial(
        self,
        kind: TrialKind,
        number: int,
        candidate: Candidate,
        *,
        proposing: float = 0.0,
        drafting: float = 0.0,
    ) -> ToldTrial:
        """Evaluate and store one trial. Raises NodePaused after too many failures in a row.

        proposing, drafting: seconds that were spent on it before; they count with the trial's own.
        """
        started = time.monotonic() - proposing - drafting
        probes = self.plan.probes_of(kind)
        weights = check_weights(candidate.weights, self.judge.blocks)
        self.context.check_room(self.context.settings.renders_dir, len(probes) * BYTES_PER_IMAGE)
        scores, earlier = self._stored_scores(kind, number)
        self.recorder.open(kind, number, candidate)
        self._stages = StageSeconds()
        score: float | None = None
        slopes: BlockWeights | None = None
        behind: Behind | None = None
        try:
            self.judge.choose(candidate.choices)
            if kind is TrialKind.SEARCH and self._drafts is not None:
                behind = self._drafts.behind(number, self._best_score())
            if behind is None:
                behind = self._raced(kind, number, weights, probes, scores)
            if behind is None:
                raw = [scores[i] for i in range(len(probes))]
                score = self._score(raw)
                if kind is TrialKind.SEARCH and score is not None:
                    _check_depends_on_weights(score, weights, self._told)
        except (TrialFailed, InputError) as error:
            seconds = earlier + time.monotonic() - started
            in_row = self.recorder.fail(str(error), seconds, self._timings(proposing))
            if kind is TrialKind.SEARCH and in_row >= FAILURES_TO_PAUSE:
                raise NodePaused(
                    f"{in_row} trials failed in a row, the last one: {error}; mend that, then resume the job"
                ) from error
            score = None
        else:
            seconds = earlier + time.monotonic() - started
            if behind is not None:
                self.recorder.stop(behind.estimate, behind.reason, seconds, self._timings(proposing))
            elif score is None:
                self.recorder.park(seconds, self._timings(proposing))
            else:
                slopes = slopes_of(self._shares, len(probes))
                looks = replace(self._looks(kind, number, candidate, raw, score), slopes=slopes)
                self.recorder.finish(score, seconds, self._timings(proposing), looks)
                if kind is TrialKind.SEARCH and self._race is not None:
                    self._race.tell(number, score, self._image_scores(raw), may_win=looks.may_win)
                if kind is TrialKind.SEARCH and self._drafts is not None:
                    self._note_if(self._drafts.whole(number, score))
        self._elapsed += seconds
        estimate = None if behind is None else behind.estimate
        return ToldTrial(number, weights, score, slopes, estimate, candidate.choices, seconds)

    def _best_score(self) -> float | None:
        best = best_that_may_win(self.plan.search, self._told)
        return None if best is None else best.score

    def _race_so_far(self) -> Race:
        """The race of the search, told of the trials that the store has whole."""
        race = Race(self.plan.search, len(self.plan.probes), self.plan.tally)
        done = self.store.trials(self.node_id, kinds=[TrialKind.SEARCH], states=[TrialState.DONE])
        renders = self.store.node_renders(self.node_id, kinds=[TrialKind.SEARCH]) if done else {}
        for trial in done:
            assert trial.score is not None
            scores = self._image_scores([render.scores for render in renders[trial.id]])
            race.tell(trial.number, trial.score, scores, may_win=trial.may_win)
        return race

    def _image_scores(self, raw: Sequence[Mapping[str, float]]) -> list[float]:
        return image_scores(raw, self.plan.scorers, self._scale)

    def _raced(
        self,
        kind: TrialKind,
        number: int,
        weights: BlockWeights,
        probes: Sequence[Probe],
        scores: dict[int, dict[str, float]],
    ) -> Behind | None:
        """Render what `scores` lacks, until all is there or the trial has fallen behind in its race."""
        searched = number if kind is TrialKind.SEARCH else None
        # A trial with slopes runs to its end: those of some probes are of no use.
        sloped = self._slopes is not None and self._slopes.carried_by(number)
        race = None if searched is None or sloped else self._race
        seen: list[int] = []
        for heat in [range(len(probes))] if race is None else race.heats(number):
            missing = [i for i in heat if i not in scores]
            self._evaluate(searched, weights, probes, missing, scores)
            seen += heat
            if race is not None and len(seen) < len(probes):
                so_far = self._image_scores([scores[i] for i in seen])
                behind = race.behind(dict(zip(seen, so_far, strict=True)))
                if behind is not None:
                    return behind
        return None

    def _score(self, raw: Sequence[Mapping[str, float]]) -> float | None:
        """A trial's score from the raw numbers of its images; None while it waits. Raises InputError."""
        if self.context.node.kind is NodeKind.REFERENCE:
            specs = self.plan.automatic
            return tally(self.plan.tally, image_scores(raw, specs, measure(raw, specs)))
        return tally(self.plan.tally, image_scores(raw, self.plan.scorers, self._scale))

    def _looks(
        self,
        kind: TrialKind,
        number: int,
        candidate: Candidate,
        raw: Sequence[Mapping[str, float]],
        score: float,
    ) -> Looks:
        """What is told of a trial beside its score."""
        names = [spec.scorer for spec in self.plan.judges]
        means = {name: fmean(scores[name] for scores in raw) for name in names}
        trial = Judged(f"trial {number}", score, raw)
        baselines = self._baselines(kind, number)
        warnings = watch_warnings(trial, baselines, self.plan.watch, self.plan.guards)
        alone = not candidate.weights
        wins = alone or may_win(self.plan.search, candidate.weights, candidate.choices)
        return Looks(means, warnings, wins)

    def _baselines(self, kind: TrialKind, number: int) -> Sequence[Judged]:
        """What a trial is compared with by the watch; nothing where it is a baseline itself."""
        if not self.plan.watch or not self.judge.blocks:
            return []
        if kind is TrialKind.SEARCH and number >= len(BASELINES):
            return self._judged([(TrialKind.SEARCH, n) for n in range(len(BASELINES))])
        if kind is TrialKind.HELDOUT_WINNER:
            return self._judged([(other, 0) for other in HELDOUT_KINDS if other is not kind])
        return []

    def _judged(self, trials: Sequence[tuple[TrialKind, int]]) -> Sequence[Judged]:
        """The baselines by their images, from the store, once they are all there."""
        if trials[0] not in self._compared:
            self.recorder.flush()
            found = zip(BASELINE_LABELS, trials, strict=True)
            stored = [(name, self.store.find_trial(self.node_id, *which)) for name, which in found]
            self._compared[trials[0]] = [
                Judged(name, trial.score, [render.scores for render in self.store.renders(trial.id)])
                for name, trial in stored
                if trial is not None and trial.score is not None
            ]
        return self._compared[trials[0]]

    def _check_same_blocks(self) -> None:
        """Raise NodePaused when earlier trials weigh other blocks: which move at all depends on the dtype."""
        known = next((set(trial.weights) for trial in self._told), set(self.judge.blocks))
        if known != set(self.judge.blocks):
            changed = ", ".join(sorted(known ^ set(self.judge.blocks)))
            raise NodePaused(
                f"the trials so far and this worker do not weigh the same blocks ({changed}): the node began "
                f"with another dtype than {self.context.settings.resolved_dtype()}; set dtype as it was and "
                "resume the job, or clone the job"
            )

    def _stored_scores(self, kind: TrialKind, number: int) -> tuple[dict[int, dict[str, float]], float]:
        """What a killed worker left of this trial: probe -> scorer -> number, and the seconds it took."""
        left = self._left_open.pop((kind, number), None)
        renders = [] if left is None else self.store.renders(left.id)
        self._shares = {r.probe: r.slopes for r in renders if r.slopes is not None}
        return {r.probe: r.scores for r in renders}, sum(r.seconds for r in renders)

    def _evaluate(
        self,
        number: int | None,
        weights: BlockWeights,
        probes: Sequence[Probe],
        missing: Sequence[int],
        scores: dict[int, dict[str, float]],
    ) -> None:
        """Render the probes `missing` and add them to `scores` and to the store."""
        if not missing:
            return
        try:
            for batch in traced(self._rendered(number, weights, probes, missing), "render batch"):
                log.debug("rendered probes %s of node %d", [r.probe for r in batch], self.node_id)
                self.recorder.renders(batch)
                scores.update({rendered.probe: rendered.scores for rendered in batch})
                self.context.check()
        finally:
            self._stages += self.judge.seconds()
            self._say_notices()

    def _rendered(
        self, number: int | None, weights: BlockWeights, probes: Sequence[Probe], missing: Sequence[int]
    ) -> Iterator[list[Rendered]]:
        """Batches of what is missing; number: of a search trial, which may carry slopes."""
        if self._slopes is None or number is None:
            return self.judge.evaluate(weights, probes, missing, self._between_steps)
        return self._slopes.evaluate(
            number, weights, probes, missing, between_steps=self._between_steps, shares=self._shares
        )

    def _between_steps(self) -> None:
        self.context.check()
        # Here, not once the batch is done: of two finished batches a kill would lose both.
        self.recorder.wait_stored()

    def _say_notices(self) -> None:
        for text in self.judge.notices[self._said :]:
            self._note(text)
            self._said += 1

    def _note(self, text: str) -> None:
        self.store.note(self.context.lease, text)

    def _note_if(self, text: str | None) -> None:
        if text is not None:
            self._note(text)

    def _timings(self, proposing: float) -> dict[str, float]:
        return {"propose": proposing, **asdict(self._stages)}


def _check_depends_on_weights(score: float, weights: BlockWeights, told: Sequence[ToldTrial]) -> None:
    """Raise TrialFailed when too many different block weights gave this very score, to the last bit."""
    same = [trial.number for trial in told if trial.score == score and trial.weights != weights]
    if len(same) >= EQUAL_SCORES_TO_FAIL - 1:
        raise TrialFailed(
            f"the score {score!r} is to the last bit that of trials {', '.join(map(str, same))}, which have "
            "other block weights: the images or the scorer do not depend on the weights; look at the images, "
            "and whether the scorer and the models are what they should be"
        )
