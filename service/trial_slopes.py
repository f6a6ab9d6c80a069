"""Whether the trials of a search carry slopes, and how such a trial is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from optimizer.blocks import BlockWeights
from optimizer.rendered import Rendered
from optimizer.samplers.choice import resolve_sampler
from optimizer.search import carries_slopes
from optimizer.slopes import NoSlopes, mean_slopes
from scoring.probes import Probe
from scoring.rendering.denoiser import BetweenSteps
from scoring.reward import Scale, rates
from service.jobs import NodePlan

Evaluate = Callable[[BlockWeights, Sequence[Probe], Sequence[int], BetweenSteps], Iterator[list[Rendered]]]
Slopes = Callable[
    [BlockWeights, Sequence[Probe], Mapping[str, float], Sequence[int], BetweenSteps],
    Iterator[list[Rendered]],
]


@dataclass(frozen=True)
class Differentiable:
    """How slopes are had. slopes: `PairEvaluator.slopes`; scorers: whether each lets gradients pass."""

    slopes: Slopes
    scorers: Mapping[str, bool]


class TrialSlopes:
    """Evaluates trials with slopes where the search wants them and they can be had.

    say: is told in words which sampler that makes, and when slopes turn out not to be had.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        differentiable: Differentiable | None,
        plan: NodePlan,
        scale: Scale | None,
        say: Callable[[str], None],
    ) -> None:
        self._evaluate, self._search, self._say = evaluate, plan.search, say
        self._slopes: Slopes | None = None
        if differentiable is None:
            return
        counting = {spec.scorer: differentiable.scorers[spec.scorer] for spec in plan.scorers}
        search = plan.search
        drafts = search.drafts is not None
        choice = resolve_sampler(search.sampler, counting, plan.tally, search.choices.options, drafts=drafts)
        if choice.reason:
            say(choice.reason)
        if choice.sampler == "gradient":
            self._slopes, self._rates = differentiable.slopes, rates(plan.scorers, scale)

    def carried_by(self, number: int) -> bool:
        """Whether search trial `number` is to be evaluated with slopes."""
        return self._slopes is not None and carries_slopes(self._search, number)

    def evaluate(
        self,
        number: int,
        weights: BlockWeights,
        probes: Sequence[Probe],
        missing: Sequence[int],
        *,
        between_steps: BetweenSteps,
        shares: dict[int, BlockWeights],
    ) -> Iterator[list[Rendered]]:
        """Render what is missing of search trial `number`.

        shares: of the slopes, by probe, of what was rendered before; those of what is rendered are added.
        """
        left = set(missing)
        # A trial that was begun without slopes is ended without them.
        whole = shares.keys() == set(range(len(probes))) - left
        if self._slopes is not None and whole and carries_slopes(self._search, number):
            try:
                for batch in self._slopes(weights, probes, self._rates, missing, between_steps):
                    left.difference_update(one.probe for one in batch)
                    shares.update({one.probe: one.slopes for one in batch if one.slopes is not None})
                    yield batch
                return
            except NoSlopes as reason:
                self._slopes = None
                self._say(f"sampler {self._search.sampler}: gp from here on, without slopes: {reason}")
        yield from self._evaluate(weights, probes, sorted(left), between_steps)


def slopes_of(shares: Mapping[int, BlockWeights], probes: int) -> BlockWeights | None:
    """A trial's slopes; None unless each of its probes has a share."""
    return mean_slopes([shares[i] for i in range(probes)]) if len(shares) == probes else None
