"""The emoji zoo as an objective: real merges, real renders, real scores by the reward CLIP.

What was rendered once is kept in a folder by pair, weights and probes, so that a search can be resumed and
what two arms have in common costs nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from itertools import combinations
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any

import yaml

from benchmarks.searching.objectives import SLOPE_PRICE
from examples.emoji.assemble import assemble, assemble_reward, members
from optimizer.blocks import BLOCKS, BlockWeights, uniform
from optimizer.slopes import mean_slopes
from optimizer.trial import PairEvaluator
from scoring.probes import Probe, read_probes
from scoring.scorers.base import ScorerSpec

JOB = Path(__file__).parents[2] / "examples" / "emoji" / "job.yaml"
# One in three of the demo's 96 prompts is searched on; all that it holds out are looked at, with other seeds.
SEARCH_PROBES, HELD_OUT_PROBES = 32, 96
# How far a search of the zoo is looked at on held-out probes: that costs several trials each time.
MARKS = (30, 100)


def pairs() -> list[tuple[str, str]]:
    """All pairs of fine-tunes, in an order that does not take one model's pairs together."""
    found = [pair for pair in combinations(members(), 2) if "base" not in pair]
    return sorted(found, key=lambda pair: hashlib.sha256("+".join(pair).encode()).digest())


@dataclass(frozen=True)
class Rated:
    """What was measured for weights: each probe's score, the seconds, and the slopes of the mean or None."""

    scores: list[float]
    seconds: float
    slopes: BlockWeights | None = None


class Cache:
    """Rated weights by key, in a file to which a line is appended for each."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.rated: dict[str, Rated] = {}
        for line in file.read_text().splitlines() if file.exists() else []:
            with suppress(json.JSONDecodeError):  # a line that a kill cut short
                entry = json.loads(line)
                key = entry.pop("key")
                self.rated[key] = Rated(**entry)

    def keep(self, key: str, rated: Rated) -> None:
        self.rated[key] = rated
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a") as out:
            out.write("\n" + json.dumps({"key": key, **asdict(rated)}))


class ZooObjective:
    """One pair of the zoo on probes drawn for it, judged by the reward CLIP; the truth is the gain over the
    uniform merge on held-out prompts and seeds."""

    marks: Sequence[int] = MARKS
    blocks: Sequence[str] = BLOCKS
    slope_price: float = SLOPE_PRICE

    def __init__(self, folder: Path, number: int, pair: tuple[str, str]) -> None:
        self.name = f"zoo/{number}"
        self.pair = pair
        self._folder = folder
        job = yaml.safe_load(JOB.read_text())
        random = Random(number)
        self.searched = _probes(job["probes"], random, SEARCH_PROBES, seed=1000 + number)
        self._held_out = _probes(job["heldout"], random, HELD_OUT_PROBES, seed=2000 + number)

    def measured_price(self) -> float:
        """CPU seconds of a score with slopes over those of a score, the medians of what the cache has."""
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for rated in self._cache(self.searched).rated.values():
            seconds[rated.slopes is not None].append(rated.seconds)
        if not seconds[True] or not seconds[False]:
            return self.slope_price
        return median(seconds[True]) / median(seconds[False])

    def observe(self, weights: BlockWeights) -> float:
        return fmean(self.rated(weights, self.searched).scores)

    def observe_slopes(self, weights: BlockWeights) -> tuple[float, BlockWeights]:
        rated = self.rated(weights, self.searched, with_slopes=True)
        assert rated.slopes is not None
        return fmean(rated.scores), rated.slopes

    def truth(self, weights: BlockWeights) -> float:
        best, uniform_merge = (
            fmean(self.rated(each, self._held_out).scores) for each in (weights, uniform(self.blocks, 0.5))
        )
        return best - uniform_merge

    def rated(self, weights: BlockWeights, probes: Sequence[Probe], with_slopes: bool = False) -> Rated:
        """What these weights give on these probes: rendered, or as the cache has it."""
        cache = self._cache(probes)
        key = _key(weights) + ("/slopes" if with_slopes else "")
        if key not in cache.rated:
            cache.keep(key, self._rendered(weights, probes, with_slopes))
        return cache.rated[key]

    def _rendered(self, weights: BlockWeights, probes: Sequence[Probe], with_slopes: bool) -> Rated:
        evaluator = _evaluator(self._folder, self.pair)
        started = time.process_time()
        if with_slopes:
            batches = evaluator.slopes(weights, probes, {"clip": 1.0})
        else:
            batches = evaluator.evaluate(weights, probes)
        rendered = sorted((one for batch in batches for one in batch), key=lambda one: one.probe)
        seconds = time.process_time() - started
        slopes = mean_slopes([one.slopes for one in rendered if one.slopes]) if with_slopes else None
        return Rated([one.scores["clip"] for one in rendered], seconds, slopes)

    def _cache(self, probes: Sequence[Probe]) -> Cache:
        said = json.dumps([probe.model_dump(mode="json") for probe in probes], sort_keys=True)
        digest = hashlib.sha256(said.encode()).hexdigest()[:12]
        return _cache(self._folder / "cache" / f"{'+'.join(self.pair)}-{digest}.jsonl")


def zoo_objective(folder: Path, number: int) -> ZooObjective:
    """Pair `number` of the zoo (they take turns), with probes drawn for that number."""
    known = pairs()
    return ZooObjective(folder, number, known[number % len(known)])


def _probes(spec: dict[str, Any], random: Random, count: int, seed: int) -> tuple[Probe, ...]:
    prompts = random.sample(spec["prompts"], count)
    return read_probes({**spec, "prompts": prompts, "seeds": [seed]}, str(JOB)).probes


def _key(weights: BlockWeights) -> str:
    text = json.dumps(sorted((block, round(alpha, 9)) for block, alpha in weights.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _cache(file: Path) -> Cache:
    return Cache(file)


@lru_cache(maxsize=1)
def _evaluator(folder: Path, pair: tuple[str, str]) -> PairEvaluator:
    files = [folder / "models" / f"emoji-{name}.safetensors" for name in pair]
    reward = folder / "scorers" / "emoji-clip"
    for name, file in zip(pair, files, strict=True):
        if not file.exists():
            assemble(folder / "models", [name])
    if not reward.exists():
        assemble_reward(reward)
    return PairEvaluator(files[0], files[1], [ScorerSpec(scorer="clip", model=str(reward))], max_batch=48)
