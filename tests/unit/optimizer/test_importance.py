"""Which blocks a score depends on."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.importance import FEWEST, block_importance
from optimizer.search import ToldTrial

BLOCKS = [f"B{number:02d}" for number in range(27)]


def trials(count: int, slopes: dict[str, float], noise: float = 0.01) -> list[ToldTrial]:
    random = np.random.default_rng(0)
    made = []
    for number in range(count):
        weights = dict(zip(BLOCKS, random.random(len(BLOCKS)).tolist(), strict=True))
        score = 5 + sum(slope * weights[block] for block, slope in slopes.items()) + noise * random.normal()
        made.append(ToldTrial(number, weights, float(score)))
    return made


def test_the_blocks_that_matter_are_found_with_their_sign_and_size() -> None:
    found = block_importance(trials(120, {"B03": 2.0, "B17": -1.0}))
    assert found is not None
    assert found.slopes["B03"] == pytest.approx(2.0, abs=0.05)
    assert found.slopes["B17"] == pytest.approx(-1.0, abs=0.05)
    assert max(abs(s) for block, s in found.slopes.items() if block not in ("B03", "B17")) < 0.05
    assert found.explained > 0.98


def test_of_noise_it_says_that_it_knows_nothing() -> None:
    found = block_importance(trials(60, {}, noise=1.0))
    assert found is not None
    assert found.explained < 0.15


def test_fewer_trials_than_blocks_are_told_of_without_certainty() -> None:
    found = block_importance(trials(12, {"B03": 2.0}, noise=0.3))
    assert found is not None
    assert all(np.isfinite(list(found.slopes.values())))
    assert found.explained < 0.9


def test_nothing_is_said_of_too_few_of_failed_or_of_equal_trials() -> None:
    few = trials(FEWEST - 1, {"B03": 1.0})
    assert block_importance(few) is None
    assert block_importance([*few, ToldTrial(99, few[0].weights, None)]) is None
    assert block_importance(trials(20, {}, noise=0.0)) is None
