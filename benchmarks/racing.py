"""What racing saves: simulated searches with and without it, and recorded scores of real ones replayed.

A simulated objective is that of a pair: 27 blocks, a score per probe that is the probe's own level, plus a
part that all probes share (what held-out probes would say), plus a part of its own. Both parts are smooth
random functions of the block weights (random Fourier features of a Gaussian kernel). The shares are those
that the emoji zoo's recorded scores show: a probe's own part spreads three times as far as the common one.

Every arm may render as often as `--trials` whole trials do; seeds are paired.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer import racing
from optimizer.blocks import BLOCKS
from optimizer.racing import Incumbent, estimate, heats, is_behind, probe_noise, probe_order
from optimizer.search import BASELINES, SearchSettings, ToldTrial, propose

TALLY = "arithmetic"
FEATURES = 400
LENGTH = 1.2
OWN_PART = 3.0


class Simulated:
    """A pair's scores by probe. The common part has a standard deviation of 1."""

    def __init__(self, seed: int, probes: int) -> None:
        draw = np.random.default_rng(seed)
        relevance = draw.gamma(0.5, 2.0, len(BLOCKS))  # few blocks matter much
        self._waves = draw.normal(size=(FEATURES, len(BLOCKS))) * np.sqrt(relevance) / LENGTH
        self._phases = draw.uniform(0, 2 * np.pi, FEATURES)
        scale = np.sqrt(2 / FEATURES)
        self._common = draw.normal(size=FEATURES) * scale
        self._own = draw.normal(size=(probes, FEATURES)) * scale * OWN_PART
        self._levels = draw.normal(size=probes) * 15

    def scores(self, weights: dict[str, float]) -> NDArray[np.float64]:
        """By probe."""
        found: NDArray[np.float64] = self._levels + (self._own + self._common) @ self._features(weights)
        return found

    def heldout(self, weights: dict[str, float]) -> float:
        """What an endless number of other probes would say, less their level."""
        return float(self._common @ self._features(weights))

    def _features(self, weights: dict[str, float]) -> NDArray[np.float64]:
        place = np.array([weights[b] for b in BLOCKS])
        return np.asarray(np.cos(self._waves @ place + self._phases), np.float64)


@dataclass
class Found:
    """A search as it went. steps: (renders so far, score of the best whole trial, its held-out score)."""

    steps: list[tuple[int, float, float]]
    trials: int
    stopped: int
    wrong: int
    covered: list[bool]


def raced(
    scores: NDArray[np.float64], whole: dict[int, NDArray[np.float64]], order: list[int]
) -> tuple[dict[int, float], racing.Estimate | None]:
    """The probes that a trial renders, and its estimate if it is stopped."""
    number = max(whole, key=lambda n: fmean(whole[n]))
    incumbent = Incumbent(number, fmean(whole[number]), whole[number].tolist())
    noise = probe_noise(incumbent, [row.tolist() for row in whole.values()])
    seen: dict[int, float] = {}
    for heat in heats(order):
        seen |= {probe: float(scores[probe]) for probe in heat}
        if noise is not None and len(seen) < len(order):
            found = estimate(seen, incumbent, noise, TALLY)
            if is_behind(found, incumbent):
                return seen, found
    return seen, None


def search(sampler: Any, seed: int, probes: int, budget: int, *, race: bool) -> Found:
    """One search of a simulated pair until its renders are used up."""
    pair = Simulated(seed, probes)
    settings = SearchSettings(sampler=sampler, seed=seed)
    order = probe_order(seed, probes)
    told: list[ToldTrial] = []
    whole: dict[int, NDArray[np.float64]] = {}
    out = Found([], 0, 0, 0, [])
    renders, best = 0, (-np.inf, -np.inf)
    while renders < budget:
        number = len(told)
        weights = propose(settings, BLOCKS, number, told)
        scores = pair.scores(weights)
        mean, found = float(scores.mean()), None
        seen: dict[int, float] = dict(enumerate(scores))
        if race and number >= len(BASELINES):
            seen, found = raced(scores, whole, order)
        renders += len(seen)
        told.append(ToldTrial(number, weights, None if found else mean, estimate=found))
        if found is None:
            whole[number] = scores
            best = max(best, (mean, pair.heldout(weights)))
        else:
            out.wrong += mean > best[0]
            out.covered.append(abs(found.score - mean) <= 1.96 * found.error)
        out.steps.append((renders, *best))
        out.trials, out.stopped = len(told), out.stopped + (found is not None)
    return out


def renders_to(found: Found, score: float) -> int | None:
    """After how many renders the best whole trial was as good as this."""
    return next((renders for renders, best, _ in found.steps if best >= score), None)


def simulate(sampler: str, probes: int, trials: int, seeds: int) -> None:
    budget = trials * probes
    plain = [search(sampler, seed, probes, budget, race=False) for seed in range(seeds)]
    for behind in (1.0, 1.5, 2.0):
        racing.BEHIND = behind
        fast = [search(sampler, seed, probes, budget, race=True) for seed in range(seeds)]
        pairs = list(zip(plain, fast, strict=True))
        ratios = [(renders_to(f, p.steps[-1][1]) or 2 * budget) / budget for p, f in pairs]
        gained = [f.steps[-1][1] - p.steps[-1][1] for p, f in pairs]
        outside = [f.steps[-1][2] - p.steps[-1][2] for p, f in pairs]
        half = 1.96 / np.sqrt(seeds)
        print(
            f"{sampler}, {probes} probes, {behind:g} errors behind: "
            f"{fmean(f.trials for f in fast):.0f} trials instead of {trials}, "
            f"{fmean(f.stopped / f.trials for f in fast):.0%} stopped, "
            f"{fmean(f.wrong for f in fast):.2f} of them better than the best; "
            f"renders to the plain search's best: {median(ratios):.2f} (median); "
            f"best {fmean(gained):+.3f} ± {np.std(gained) * half:.3f} sd, "
            f"held-out {fmean(outside):+.3f} ± {np.std(outside) * half:.3f} sd; "
            f"95 % intervals of estimates hold {fmean(c for f in fast for c in f.covered):.0%}",
            flush=True,
        )


def replay(file: Path, probes: int) -> None:
    """Stop recorded trials ({scores: trial by probe}) as racing would have; proposals stay as they were."""
    every = np.array(json.loads(file.read_text())["scores"])
    for behind in (1.0, 1.5, 2.0):
        racing.BEHIND = behind
        used, lost, draws = 0, [], 20
        for draw in range(draws):
            chosen = np.random.default_rng(draw).choice(every.shape[1], probes, replace=False)
            scores, order = every[:, chosen], probe_order(draw, probes)
            whole = {n: scores[n] for n in range(len(BASELINES))}
            for number in range(len(BASELINES), len(scores)):
                seen, found = raced(scores[number], whole, order)
                used += len(seen)
                if found is None:
                    whole[number] = scores[number]
            lost.append(scores.mean(1).max() - max(row.mean() for row in whole.values()))
        share = used / draws / probes / (len(every) - len(BASELINES))
        print(f"{file.stem} {probes} probes, {behind:g} behind: renders {share:.2f}, lost {fmean(lost):.5f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sampler", default="gp")
    parser.add_argument("--probes", type=int, default=24)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--replay", type=Path, nargs="*", default=[])
    given = parser.parse_args()
    started = time.monotonic()
    for file in given.replay:
        replay(file, given.probes)
    if not given.replay:
        simulate(given.sampler, given.probes, given.trials, given.seeds)
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
