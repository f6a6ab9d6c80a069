"""What slopes are worth: against central differences, their price, their memory, and searches that use them.

On pairs of the emoji zoo, one thread. Times are those of the processor, so that other work beside it counts
little. `python -m benchmarks.slopes [--search] [--pairs N] [--json FILE]`
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import mul
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from examples.emoji.assemble import assemble, assemble_reward
from optimizer.blocks import BlockWeights, uniform
from optimizer.rendered import Rendered
from optimizer.samplers.told import ToldTrial, score_of
from optimizer.search import BASELINES, SearchSettings, carries_slopes, propose
from optimizer.slopes import mean_slopes
from optimizer.trial import PairEvaluator
from scoring.probes import Probe
from scoring.reward import rates
from scoring.scorers.base import ScorerSpec

PAIRS = (
    ("animals", "food"),
    ("faces", "outdoors"),
    ("noto", "twemoji"),
    ("animals", "faces"),
    ("flat", "3d"),
    ("food", "outdoors"),
)
PROMPTS = ("tiger, twemoji style", "fox, 3d style", "pizza, noto style", "sleeping face, flat style",
           "red apple, 3d style", "sailboat, noto style")  # fmt: skip
HELDOUT = ("dog, flat style", "panda, 3d style", "goat, noto style", "banana, twemoji style",
           "bread, flat style", "smiling face with sunglasses, noto style", "helicopter, noto style",
           "full moon face, flat style", "bicycle, twemoji style", "grapes, 3d style",
           "angry face, twemoji style", "evergreen tree, 3d style")  # fmt: skip
# Small: over wider ones the score bends, and they say less of the slope.
DIFFERENCE = 0.0025
PEAK_STEPS = (2, 8, 32)


def probes(prompts: Sequence[str], seed: int, steps: int = 6) -> list[Probe]:
    """Probes as the zoo's demo has them."""
    how: dict[str, Any] = {"sampler": "DPM++ 2M", "steps": steps, "cfg_scale": 4, "width": 32, "height": 32}
    return [Probe(prompt=prompt, seed=seed + i, **how) for i, prompt in enumerate(prompts)]


@dataclass
class Pair:
    """A pair of the zoo: plain trials, trials with slopes, and what both took."""

    folder: Path
    a: str
    b: str
    plain_seconds: list[float] = field(default_factory=list)
    slope_seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.specs = [ScorerSpec(scorer="clip", model=str(self.folder / "reward"))]
        paths = [self.folder / f"emoji-{name}.safetensors" for name in (self.a, self.b)]
        self.evaluator = PairEvaluator(paths[0], paths[1], self.specs)
        self.blocks = self.evaluator.blocks

    def score(self, weights: BlockWeights, shown: Sequence[Probe]) -> float:
        """The mean score."""
        began = time.process_time()
        score = fmean(one.scores["clip"] for one in all_of(self.evaluator.evaluate(weights, shown)))
        self.plain_seconds.append(time.process_time() - began)
        return score

    def slopes(self, weights: BlockWeights, shown: Sequence[Probe]) -> tuple[float, BlockWeights]:
        """The mean score and its slopes."""
        began = time.process_time()
        found = all_of(self.evaluator.slopes(weights, shown, rates(self.specs)))
        self.slope_seconds.append(time.process_time() - began)
        return fmean(one.scores["clip"] for one in found), mean_slopes([one.slopes or {} for one in found])

    @property
    def price(self) -> float:
        """Of a trial with slopes, in plain ones."""
        return median(self.slope_seconds) / median(self.plain_seconds)


def all_of(batches: Any) -> list[Rendered]:
    """All renders of a trial, in the order of its probes."""
    return sorted((one for batch in batches for one in batch), key=lambda one: int(one.probe))


# --- exact?


def against_differences(pair: Pair, shown: Sequence[Probe], at: float) -> float:
    """The cosine of the slopes and central differences around the uniform merge of weight `at`."""
    middle = uniform(pair.blocks, at)
    _, slopes = pair.slopes(middle, shown)
    differences = {
        block: pair.score({**middle, block: at + DIFFERENCE}, shown)
        - pair.score({**middle, block: at - DIFFERENCE}, shown)
        for block in pair.blocks
    }
    return cosine([slopes[block] for block in pair.blocks], list(differences.values()))


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Of the angle between two vectors."""
    product: float = sum(map(mul, one, other))
    return product / (math.hypot(*one) * math.hypot(*other))


# --- memory


def peak(folder: Path, way: str, steps: int) -> float:
    """MiB above the loaded pair that an evaluation of two probes takes at most, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.slopes", "--peak", way, str(steps), str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure_peak(folder: Path, way: str, steps: int) -> float:
    """As `peak`, in this process. way: plain, checkpointed, or kept: with the graph of all steps."""
    torch.set_num_threads(1)
    pair = Pair(folder, *PAIRS[0])
    shown, middle = probes(PROMPTS[:2], 1, steps), uniform(pair.blocks, 0.5)
    pair.score(middle, probes(PROMPTS[:2], 1, 2))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if way == "plain":
        pair.score(middle, shown)
    elif way == "checkpointed":
        pair.slopes(middle, shown)
    else:
        renderer, scorer = pair.evaluator._merged.renderer, pair.evaluator._merged.scorers["clip"]
        with torch.enable_grad(), pair.evaluator.merge.gradients():
            for indices, images in renderer.render(shown):
                scorer.score(images, [shown[i].prompt for i in indices]).sum().backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


# --- searches


Search = Callable[[Pair, float, int], list[tuple[float, ToldTrial]]]


def by_sampler(sampler: str) -> Search:
    """A search as the service runs it; every trial with what was paid until then, in plain trials."""

    def search(pair: Pair, budget: float, seed: int) -> list[tuple[float, ToldTrial]]:
        settings = SearchSettings.model_validate({"sampler": sampler, "seed": seed, "trials": 1000})
        shown, told, paid = probes(PROMPTS, 1), list[ToldTrial](), list[float]()
        while not paid or paid[-1] < budget:
            number = len(told)
            weights = propose(settings, pair.blocks, number, told)
            sloped = carries_slopes(settings, number)
            score, slopes = pair.slopes(weights, shown) if sloped else (pair.score(weights, shown), None)
            told.append(ToldTrial(number, weights, score, slopes))
            paid.append((paid[-1] if paid else 0.0) + (pair.price if sloped else 1.0))
        return list(zip(paid, told, strict=True))

    return search


def trust_region(
    pair: Pair, budget: float, seed: int, *, fresh: bool = False
) -> list[tuple[float, ToldTrial]]:
    """Projected ascent from the uniform merge: the best step of the linear model within a radius, which grows
    and shrinks by what was gained of what was promised (Conn, Gould and Toint 2000).

    fresh: other seeds at every step, so that it climbs the expected score; it then moves on in any case.
    """
    told: list[tuple[float, ToldTrial]] = []
    here, radius, paid = np.full(len(pair.blocks), 0.5), 0.7, 0.0
    best: tuple[float, NDArray[np.float64], NDArray[np.float64]] | None = None
    promised = 0.0
    while paid < budget:
        weights = dict(zip(pair.blocks, map(float, here), strict=True))
        shown = probes(PROMPTS, 1 + (100 * (len(told) + 1) + 10_000 * seed if fresh else 0))
        score, slopes = pair.slopes(weights, shown)
        paid += pair.price
        told.append((paid, ToldTrial(len(told), weights, score, slopes)))
        uphill = np.array([slopes[block] for block in pair.blocks])
        if fresh:
            radius = 0.7 / math.sqrt(len(told))
            best = (score, here, uphill)
        else:
            share = (score - best[0]) / promised if best and promised > 0 else 1.0
            radius = radius / 2 if share < 0.25 else min(2.0, radius * (1.6 if share > 0.6 else 1.0))
            if best is None or score > best[0]:
                best = (score, here, uphill)
        here = _step(best[1], best[2], radius)
        promised = float(best[2] @ (here - best[1]))
    return told


def _step(x: NDArray[np.float64], uphill: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Where in the box, at most `radius` away, x + t * uphill ends, cut to the box."""
    low, high = 0.0, 1e9
    for _ in range(100):
        t = math.sqrt(max(low, 1e-6) * high)
        far = float(np.linalg.norm(np.clip(x + t * uphill, 0, 1) - x)) > radius
        low, high = (low, t) if far else (t, high)
    return np.clip(x + low * uphill, 0, 1)


def fresh_seeds(pair: Pair, budget: float, seed: int) -> list[tuple[float, ToldTrial]]:
    """Projected ascent with other seeds at every step."""
    return trust_region(pair, budget, seed, fresh=True)


ARMS: dict[str, Search] = {
    "gradient": by_sampler("gradient"),
    "trust region": trust_region,
    "fresh seeds": fresh_seeds,
    "gp": by_sampler("gp"),
    "tpe": by_sampler("tpe"),
}


def searched(pair: Pair, arm: str, budget: float, seed: int) -> dict[str, Any]:
    """What an arm reached for quarters of the budget, on the probes it saw and on held-out ones."""
    trials = ARMS[arm](pair, budget, seed)
    found: dict[str, Any] = {"pair": f"{pair.a} + {pair.b}", "arm": arm, "price": pair.price, "reached": []}
    heldout = probes(HELDOUT, 5000)
    for quarter in (budget / 4, budget / 2, budget):
        within = [trial for paid, trial in trials if paid <= quarter + 1] or [trials[0][1]]
        chosen = within[-1] if arm == "fresh seeds" else max(within, key=score_of)
        found["reached"].append(
            {"cost": quarter, "trials": len(within), "score": chosen.score,
             "heldout": pair.score(chosen.weights, heldout)}
        )  # fmt: skip
    return found


def main() -> None:
    """Print the tables; --json FILE keeps the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--search", action="store_true", help="run the searches, not the measurements")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--pairs", type=int, default=3, help="how many pairs of the zoo")
    parser.add_argument("--budget", type=float, default=40, help="of a search, in plain trials")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        way, steps, folder = arguments.peak
        print(measure_peak(Path(folder), way, int(steps)))
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assemble(folder)
        assemble_reward(folder / "reward")
        found: Any = _search(folder, arguments) if arguments.search else _measure(folder, arguments.pairs)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def _measure(folder: Path, count: int) -> dict[str, Any]:
    exact = []
    for a, b in PAIRS[:count]:
        pair = Pair(folder, a, b)
        found = against_differences(pair, probes(PROMPTS[:4], 1), 0.4)
        for at in (0.3, 0.6):
            pair.slopes(uniform(pair.blocks, at), probes(PROMPTS[:4], 1))
        exact.append({"pair": f"{a} + {b}", "cosine": found, "price": pair.price})
    table = Table("pair", "cosine with central differences", "price in plain trials")
    for row in exact:
        table.add_row(str(row["pair"]), f"{row['cosine']:.4f}", f"{row['price']:.1f}")
    Console().print(table)
    memory = {way: {n: peak(folder, way, n) for n in PEAK_STEPS} for way in ("plain", "checkpointed", "kept")}
    table = Table("MiB of an evaluation of 2 probes", *(f"{steps} steps" for steps in PEAK_STEPS))
    for way, by_steps in memory.items():
        table.add_row(way, *(f"{by_steps[steps]:.0f}" for steps in PEAK_STEPS))
    Console().print(table)
    return {"exact": exact, "memory": memory}


def _search(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    found = []
    for a, b in PAIRS[: arguments.pairs]:
        pair = Pair(folder, a, b)
        heldout = probes(HELDOUT, 5000)
        ends = {name: pair.score(uniform(pair.blocks, at), heldout) for name, at in BASELINES.items()}
        for arm in arguments.arms:
            row = {**searched(pair, arm, arguments.budget, 0), "baselines": ends}
            found.append(row)
            if arguments.json:
                arguments.json.write_text(json.dumps(found, indent=1))
            print(json.dumps(row), flush=True)
    table = Table("pair", "arm", *(f"@{row['cost']:g} (held out)" for row in found[0]["reached"]))
    for row in found:
        cells = (f"{one['score']:.4f} ({one['heldout']:.4f})" for one in row["reached"])
        table.add_row(row["pair"], row["arm"], *cells)
    Console().print(table)
    return found


if __name__ == "__main__":
    main()
