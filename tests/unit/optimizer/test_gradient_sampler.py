"""The sampler that is told slopes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from optimizer.blocks import BLOCKS, BlockWeights
from optimizer.samplers.gradient import _data, _fitted, _slopes_to_slopes, _to_values
from optimizer.search import SamplerName, SearchSettings, ToldTrial, carries_slopes, propose, stop_reason

DRAW = np.random.default_rng(3)
PEAK, WIDE = DRAW.uniform(0.1, 0.9, len(BLOCKS)), 10 ** DRAW.uniform(-1.5, 0.5, len(BLOCKS))


def landscape(weights: BlockWeights) -> tuple[float, BlockWeights]:
    """A hill of which some blocks matter much and others little, with its slopes."""
    apart = (np.array([weights[block] for block in BLOCKS]) - PEAK) * WIDE
    height = float(np.exp(-(apart @ apart)))
    slopes: NDArray[np.float64] = -2 * height * apart * WIDE
    return height, dict(zip(BLOCKS, map(float, slopes), strict=True))


def run(settings: SearchSettings, told: list[ToldTrial], until: int) -> list[ToldTrial]:
    told = list(told)
    while len(told) < until:
        number = len(told)
        weights = propose(settings, BLOCKS, number, told)
        height, slopes = landscape(weights)
        told.append(ToldTrial(number, weights, height, slopes if carries_slopes(settings, number) else None))
    return told


def best(sampler: SamplerName, trials: int) -> float:
    told = run(SearchSettings(sampler=sampler), [], trials)
    return max(trial.score for trial in told if trial.score is not None)


@pytest.mark.slow
def test_it_climbs_higher_in_10_trials_than_gp_in_40() -> None:
    assert best("gradient", 10) > best("gp", 40)


@pytest.mark.slow
def test_a_resumed_search_proposes_what_an_undisturbed_one_does() -> None:
    settings = SearchSettings(sampler="gradient", seed=7)
    undisturbed = run(settings, [], 7)
    resumed: list[ToldTrial] = []
    for stop in (2, 3, 5, 7):
        resumed = run(settings, [ToldTrial(**vars(trial)) for trial in resumed], stop)
    assert resumed == undisturbed
    assert all(0 <= alpha <= 1 for trial in resumed for alpha in trial.weights.values())


def test_the_uniform_merge_is_the_first_with_slopes_and_other_samplers_want_none() -> None:
    for sampler in ("auto", "gradient"):
        settings = SearchSettings(sampler=sampler)
        assert [carries_slopes(settings, number) for number in range(5)] == [False, False, True, True, True]
    assert not carries_slopes(SearchSettings(sampler="gp"), 5)


def test_told_of_no_slopes_it_proposes_what_gp_does() -> None:
    told = [ToldTrial(t.number, t.weights, t.score) for t in run(SearchSettings(sampler="gp"), [], 5)]
    proposals = [
        propose(SearchSettings(sampler=name), BLOCKS, 5, told) for name in ("auto", "gradient", "gp")
    ]
    assert proposals[0] == proposals[1] == proposals[2]
    assert stop_reason(SearchSettings(), told, 0.0) is None


def test_the_covariances_of_slopes_are_derivatives_of_those_of_values() -> None:
    torch.manual_seed(0)
    points = torch.rand(4, 3, dtype=torch.float64)

    def values(some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return _to_values(some, others, others[:0])

    for i, one in enumerate(points):
        for j, other in enumerate(points):
            if i == j:
                continue
            here, there = one[None].requires_grad_(), other[None].requires_grad_()
            (first,) = torch.autograd.grad(values(here, there).sum(), there, create_graph=True)
            found = _to_values(here, points[:0], there)[0]
            assert torch.allclose(first[0], found, atol=1e-6)
            second = torch.stack([torch.autograd.grad(f, here, retain_graph=True)[0][0] for f in first[0]], 1)
            rows, columns = slice(3 * i, 3 * i + 3), slice(3 * j, 3 * j + 3)
            assert torch.allclose(second, _slopes_to_slopes(points.detach())[rows, columns], atol=1e-5)


def test_the_process_goes_through_what_it_was_told() -> None:
    told = run(SearchSettings(sampler="gradient"), [], 5)
    data = _data(BLOCKS, told, len(told))
    process = _fitted(data)
    where = data.slope_points.clone().requires_grad_()
    mean, _ = process.at(where)
    (slopes,) = torch.autograd.grad(mean.sum(), where)
    spread = float(data.values.std())
    assert mean.detach().numpy() == pytest.approx(data.values[2:].numpy(), abs=0.1 * spread)
    assert float((slopes - data.slopes).norm()) < 0.2 * float(data.slopes.norm())
