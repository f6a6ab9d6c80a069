"""Brownian noise against torchsde, whose tree A1111 uses, and against what a Brownian motion is."""

from __future__ import annotations

import pytest
import torch
import torchsde
from torch import Tensor

from scoring.rendering.sampling.noise_source import BrownianMotion, BrownianNoise
from scoring.rendering.sampling.schedules import karras_between

SHAPE = (4, 3, 5)
SIGMAS = karras_between(14.6146, 0.0292, 9)


def seeded(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def source(seeds: list[int]) -> BrownianNoise:
    return BrownianNoise(lambda: torch.ones(()), seeds, [seeded] * len(seeds), SIGMAS, torch.zeros(1))


@pytest.mark.parametrize("seed", [0, 5, 2**32 - 1])
def test_it_is_torchsdes_tree(seed: int) -> None:
    low, high = SIGMAS[-2].item(), SIGMAS[0].item()
    theirs = torchsde.BrownianTree(low, torch.zeros(SHAPE), high, entropy=seed)
    motion = BrownianMotion(low, high, seed, seeded)
    for start, end in [(low, high), (0.5, 3.0), (2.9999, 3.0), (low, 0.03), (7, high), (0.1, 0.1)]:
        torch.testing.assert_close(motion.increment(start, end), theirs(start, end), rtol=1e-5, atol=1e-6)


def test_noise_is_the_motion_downwards_over_its_spread() -> None:
    """k-diffusion's BrownianTreeNoiseSampler: the growth from sigma to sigma_next, a falling interval."""
    theirs = torchsde.BrownianTree(SIGMAS[-2].item(), torch.zeros(SHAPE), SIGMAS[0].item(), entropy=8)
    found = source([7, 8]).between(3.0, 0.75)
    torch.testing.assert_close(found[1], -theirs(0.75, 3.0) / 1.5, rtol=1e-5, atol=1e-6)
    assert found.shape == (2, *SHAPE)


def test_an_image_does_not_depend_on_its_neighbours_nor_on_what_was_asked_before() -> None:
    alone, together = source([8]), source([7, 8])
    together.between(14.0, 9.0)
    together.between(0.4, 0.2)
    torch.testing.assert_close(alone.between(3.0, 1.0)[0], together.between(3.0, 1.0)[1])


def test_its_noise_has_unit_variance_and_parts_are_independent() -> None:
    motions = [
        BrownianMotion(0.03, 14.6, seed, lambda s: torch.randn(16, generator=_gen(s))) for seed in range(99)
    ]
    first = torch.cat([motion.increment(0.5, 2.0) for motion in motions]) / 1.5**0.5
    second = torch.cat([motion.increment(2.0, 2.3) for motion in motions]) / 0.3**0.5
    assert first.var().item() == pytest.approx(1, abs=0.1)
    assert second.var().item() == pytest.approx(1, abs=0.1)
    assert (first * second).mean().item() == pytest.approx(0, abs=0.08)


def _gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
