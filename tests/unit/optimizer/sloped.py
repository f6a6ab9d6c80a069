"""What a pair's trials give, and the angle between two trials' slopes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from operator import mul

from optimizer.blocks import BlockWeights
from optimizer.rendered import Rendered
from optimizer.slopes import mean_slopes
from optimizer.trial import PairEvaluator
from scoring.probes import Probe

RATES = {"clip": 1.0}


def all_of(batches: Iterator[list[Rendered]]) -> list[Rendered]:
    return sorted((one for batch in batches for one in batch), key=lambda one: one.probe)


def slopes(pair: PairEvaluator, weights: BlockWeights, probes: Sequence[Probe]) -> BlockWeights:
    return mean_slopes([one.slopes or {} for one in all_of(pair.slopes(weights, probes, RATES))])


def cosine(one: BlockWeights, other: BlockWeights) -> float:
    a, b = list(one.values()), [other[block] for block in one]
    product: float = sum(map(mul, a, b))
    return product / math.hypot(*a) / math.hypot(*b)
