"""How sure a gain is: a bootstrap over the probes on which checkpoints were compared.

What is drawn with replacement is a prompt with all of its seeds, where a prompt has several: images of one
prompt are alike, and drawing each on its own would make a gain look surer than it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from scoring.probes import Probe
from scoring.reward import tally
from service.afterwards.retally import probe_scores
from service.db.records import NodeRecord, TrialRecord
from service.db.states import NodeKind
from service.db.store import Store
from service.jobs import NodePlan
from service.remembered import Remembered
from service.results import BASELINE_NAMES, PHASES, compared_trials
from service.scale import scale_of

RESAMPLES = 2000
SEED = 0
LEVEL = 0.95

Groups = tuple[tuple[int, ...], ...]
"""The probes by their numbers, those of one prompt together."""


@dataclass(frozen=True)
class Gain:
    """How far one checkpoint is above another. low, high: the 95 % interval; None for a single probe."""

    value: float
    low: float | None
    high: float | None
    probes: int

    @property
    def verdict(self) -> str:
        """good or bad where the interval leaves out 0; else open: it could be chance."""
        if self.low is not None and self.low > 0:
            return "good"
        return "bad" if self.high is not None and self.high < 0 else "open"


class Confidence(BaseModel):
    """How sure it is that a node's winner beats A, B and their uniform merge, whichever is best."""

    probability: float = Field(description="Share of the bootstrap's draws of probes in which it does.")
    gain: float = Field(description="The winner above the best of them.")
    low: float = Field(description="The 95 % interval of that gain.")
    high: float
    heldout: bool = Field(
        description="Whether on held-out probes. On those of the search, where the winner was chosen for "
        "being good, it is too high."
    )
    probes: int
    prompts: int
    text: str = Field(description="The same in words.")


def prompt_groups(probes: Sequence[Probe]) -> Groups:
    """The probes by prompt and negative prompt; each alone where there is only one prompt."""
    by_prompt: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, probe in enumerate(probes):
        by_prompt[probe.prompt, probe.negative_prompt].append(number)
    if len(by_prompt) < 2:
        return _each(len(probes))
    return tuple(tuple(numbers) for numbers in by_prompt.values())


def paired_gain(
    winner: Sequence[float], rival: Sequence[float], tally_name: str, groups: Groups | None = None
) -> Gain:
    """The tally of the winner's scores minus that of the rival's, both on the same probes in the same order.

    The interval is the percentile bootstrap (Efron & Tibshirani 1993, chapter 13) over groups of probes, by
    `prompt_groups`; each probe its own unless given. They are drawn with replacement, each with both scores,
    so that what makes a probe easy or hard for both cancels. The seed is fixed. Raises InputError as `tally`,
    and ValueError for different lengths.
    """
    if len(winner) != len(rival):
        raise ValueError(f"{len(winner)} and {len(rival)} scores are not of the same probes")
    value, draws = _bootstrap(tuple(winner), (tuple(rival),), tally_name, groups or _each(len(winner)))
    if not len(draws):
        return Gain(value, None, None, len(winner))
    low, high = _interval(draws)
    return Gain(value, low, high, len(winner))


def winner_confidence(store: Store, node: NodeRecord) -> Confidence | None:
    """How sure the winner of a merge is, on held-out probes as soon as all are scored there.

    None before there is a winner and something to beat, for a single probe, and where people judge: votes
    give a trial one number for all its probes. Raises InputError as `tally`.
    """
    best = store.best_trial(node.id) if node.kind is NodeKind.MERGE else None
    if best is None:
        return None
    heldout, trials = compared_trials(store, node, best)
    # A trial that has a score has all of its renders, and these never change.
    stamp = (heldout, *(None if trial is None else (trial.id, trial.score) for trial in trials))
    return _KNOWN.get(store, node.id, stamp, lambda: _worked_out(store, node, trials, best, heldout=heldout))


_KNOWN: Remembered[Confidence | None] = Remembered()


def confidence_scores(found: Confidence | None) -> dict[str, float]:
    """What a recipe says of it, by name: `heldout/confidence`, `heldout/gain` and its 95 % interval."""
    if found is None:
        return {}
    phase = PHASES[found.heldout]
    told = {
        "confidence": found.probability,
        "gain": found.gain,
        "gain_low": found.low,
        "gain_high": found.high,
    }
    return {f"{phase}/{name}": value for name, value in told.items()}


def _worked_out(
    store: Store, node: NodeRecord, trials: Sequence[TrialRecord | None], best: TrialRecord, *, heldout: bool
) -> Confidence | None:
    plan = NodePlan.model_validate(node.plan)
    if plan.voted:
        return None
    probes = plan.heldout if heldout else plan.probes
    scale = scale_of(store, node.job_id, plan, plan.scorers)

    def scores(trial: TrialRecord) -> tuple[float, ...]:
        return tuple(probe_scores(store.renders(trial.id), len(probes), plan.scorers, scale))

    rivals = tuple(scores(t) for t in trials[: len(BASELINE_NAMES)] if t is not None and t.score is not None)
    if not rivals:
        return None
    groups = prompt_groups(probes)
    value, draws = _bootstrap(scores(trials[-1] or best), rivals, plan.tally, groups)
    if not len(draws):
        return None
    low, high = _interval(draws)
    probability = fmean(draws > 0)
    prompts = len({(probe.prompt, probe.negative_prompt) for probe in probes})
    where = "held-out" if heldout else "search"
    return Confidence(
        probability=probability,
        gain=value,
        low=low,
        high=high,
        heldout=heldout,
        probes=len(probes),
        prompts=prompts,
        text=f"{_percent(probability)} sure that it beats the best of A, B and uniform: {value:+.4f} "
        f"({low:+.4f} to {high:+.4f}) by {len(probes)} {where} probes of {prompts} prompts",
    )


def _percent(share: float) -> str:
    """A share of the draws; what is true of all or of none of so many is not sure for that."""
    return "over 99.9 %" if share > 0.999 else "under 0.1 %" if share < 0.001 else f"{100 * share:.3g} %"


def _each(count: int) -> Groups:
    return tuple((number,) for number in range(count))


def _bootstrap(
    winner: tuple[float, ...], rivals: tuple[tuple[float, ...], ...], tally_name: str, groups: Groups
) -> tuple[float, NDArray[np.float64]]:
    """The winner above the best of the rivals, and the same in every draw; none for a single group."""
    own, others = np.array(winner), [np.array(rival) for rival in rivals]

    def above(probes: NDArray[np.int64]) -> float:
        return tally(tally_name, own[probes].tolist()) - max(
            tally(tally_name, other[probes].tolist()) for other in others
        )

    value = above(np.arange(len(winner)))
    return value, _draws(groups, above) if len(groups) > 1 else np.array([])


def _draws(groups: Groups, above: Callable[[NDArray[np.int64]], float]) -> NDArray[np.float64]:
    # scipy.stats takes a second to import, which no other command need pay.
    from scipy.stats import bootstrap

    members = [np.array(group) for group in groups]
    drawn = bootstrap(
        (np.arange(len(groups)),),
        lambda chosen: above(np.concatenate([members[i] for i in chosen])),
        vectorized=False,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).bootstrap_distribution
    return np.asarray(drawn, np.float64)


def _interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(draws, [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2])
    return float(low), float(high)
