"""The noise that samplers add on the way: drawn anew every time, or of a Brownian motion over the levels.

Brownian motion: Li et al. (2020), "Scalable Gradients for Stochastic Differential Equations" (the virtual
Brownian tree), as torchsde's BrownianTree computes it and k-diffusion's BrownianTreeNoiseSampler uses it.
It is written out here because torchsde draws with torch's generators alone, while A1111 replaces them by the
random number source that is set; the numbers are torchsde's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

Seeded = Callable[[int], Tensor]
"""seed -> the first noise (C, h, w) of unit variance that a generator of this seed draws."""


class NoiseSource(Protocol):
    """Noise (N, C, h, w) of unit variance, on the latents' device and of their dtype."""

    def next(self) -> Tensor:
        """The next noise, independent of all before."""

    def between(self, sigma: float, sigma_next: float) -> Tensor:
        """The noise of a Brownian motion between two noise levels: the same whenever it is asked for."""


class StepNoise:
    """A `NoiseSource` whose noise is drawn by `draw` alone, for samplers without Brownian motion."""

    def __init__(self, draw: Callable[[], Tensor]) -> None:
        self._draw = draw

    def next(self) -> Tensor:
        return self._draw()

    def between(self, sigma: float, sigma_next: float) -> Tensor:  # noqa: ARG002
        return self._draw()


class BrownianNoise:
    """A `NoiseSource` with one Brownian motion per image, as A1111's `create_noise_sampler` makes them.

    draw: the noise of `next`. seeds: of the images (A1111 takes the images' own, without ENSD). seeded: what
    generators of the images' random number source draw, one per image. sigmas: the noise levels; the motion
    runs from the smallest that is above 0 to the largest. like: a tensor of the wanted device and dtype.
    """

    def __init__(
        self,
        draw: Callable[[], Tensor],
        seeds: Sequence[int],
        seeded: Sequence[Seeded],
        sigmas: Tensor,
        like: Tensor,
    ) -> None:
        low, high = float(sigmas[sigmas > 0].min()), float(sigmas.max())
        self._draw = draw
        self._like = like
        self._motions = [
            BrownianMotion(low, high, seed, noise) for seed, noise in zip(seeds, seeded, strict=True)
        ]

    def next(self) -> Tensor:
        return self._draw()

    def between(self, sigma: float, sigma_next: float) -> Tensor:
        low, high = sorted((sigma, sigma_next))
        growth = torch.stack([motion.increment(low, high) for motion in self._motions])
        # The motion runs towards high levels: downwards it is the other way round.
        direction = -1 if sigma > sigma_next else 1
        return (growth * (direction / math.sqrt(high - low))).to(self._like)


_DIGITS = 6  # to which torchsde rounds times, and so where its tree ends
_POOL_SIZE = 24  # of torchsde's BrownianTree


class _Node(NamedTuple):
    """One interval of the tree, and by how much the motion grows in it."""

    start: float
    end: float
    growth: Tensor


class BrownianMotion:
    """A Brownian motion over [start, end] as a function of its seed alone.

    Every interval of the tree is halved; the growth over its left half is normal around half of its own
    (Brownian bridge), drawn with a seed that hangs on the interval's place in the tree.
    """

    def __init__(self, start: float, end: float, seed: int, seeded: Seeded) -> None:
        self._start, self._end, self._seed, self._seeded = start, end, seed, seeded
        # Two neighbouring levels need the nodes on the way to them, some 25 each.
        self._node = lru_cache(maxsize=128)(self._make_node)

    def increment(self, start: float, end: float) -> Tensor:
        """By how much the motion grows from `start` to `end`, which are cut off at the motion's own ends."""
        root = self._node(0, 0)
        start, end = (min(max(round(time, _DIGITS), root.start), root.end) for time in (start, end))
        return self._grown(0, 0, start, end)

    def _grown(self, depth: int, place: int, start: float, end: float) -> Tensor:
        node = self._node(depth, place)
        if start == end:
            return torch.zeros_like(node.growth)
        if start <= node.start and end >= node.end:
            return node.growth
        middle = _middle(node)
        left, right = (depth + 1, 2 * place), (depth + 1, 2 * place + 1)
        if end <= middle:
            return self._grown(*left, start, end)
        if start >= middle:
            return self._grown(*right, start, end)
        return self._grown(*left, start, middle) + self._grown(*right, middle, end)

    def _make_node(self, depth: int, place: int) -> _Node:
        """The `place`-th interval of those that are halved `depth` times."""
        if depth == 0:
            seed = np.random.SeedSequence(self._seed, pool_size=_POOL_SIZE).generate_state(3)[0]
            growth = self._seeded(int(seed)) * math.sqrt(self._end - self._start)
            return _Node(round(self._start, _DIGITS), round(self._end, _DIGITS), growth)
        parent = self._node(depth - 1, place // 2)
        middle = _middle(parent)
        width = parent.end - parent.start
        left, right = middle - parent.start, parent.end - middle
        key = (place // 2, depth - 1)
        seed = np.random.SeedSequence(self._seed, spawn_key=key, pool_size=_POOL_SIZE).generate_state(4)[0]
        bridge = parent.growth * (left / width) + self._seeded(int(seed)) * math.sqrt(left * right / width)
        if place % 2 == 0:
            return _Node(parent.start, middle, bridge)
        return _Node(middle, parent.end, parent.growth - bridge)


def _middle(node: _Node) -> float:
    return round(0.5 * (node.start + node.end), _DIGITS)
