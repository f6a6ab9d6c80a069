"""The noise of a batch of probes, drawn as A1111 draws it.

Sources: A1111's modules/rng.py (`ImageRNG`, `slerp`) and modules/rng_philox.py (its random number source
"NV"); Salmon et al. (2011), "Parallel Random Numbers: As Easy as 1, 2, 3" (Philox4x32-10); cuRAND's
Box-Muller transform.

All numbers are drawn on the CPU in float32, so that they are the same on every device, and every probe has
generators of its own, so that they do not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scoring.probes import Probe

Shape = tuple[int, int, int]
Draw = Callable[[], Tensor]
"""The next noise of one generator: float32, of the shape it was made for."""

_SEEDS = 2**64


class SeededNoise:
    """The noise of one batch: call `first` once, then `next` for every further one.

    shape: (channels, height, width) of one probe's latents. device, dtype: of what is returned.
    The second pass of hires fix takes a new one, of the larger shape, as in A1111.
    """

    def __init__(
        self, probes: Sequence[Probe], shape: Shape, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self._probes = list(probes)
        self._shape = shape
        self._device = device
        self._dtype = dtype
        self._draws = [_generator(probe.rng, probe.seed, shape) for probe in self._probes]

    def first(self) -> Tensor:
        """The noise (N, *shape) that denoising begins with.

        It lies the share `variation_strength` of the way to the noise of `variation_seed`. Where `ensd` is
        not 0, what follows comes from generators of `seed + ensd`; otherwise the generators go on.
        """
        noise = [self._begin(probe, draw) for probe, draw in zip(self._probes, self._draws, strict=True)]
        self._draws = [
            _generator(probe.rng, probe.seed + probe.ensd, self._shape) if probe.ensd else draw
            for probe, draw in zip(self._probes, self._draws, strict=True)
        ]
        return self._stack(noise)

    def next(self) -> Tensor:
        """The noise (N, *shape) that a sampler adds in its next step."""
        return self._stack([draw() for draw in self._draws])

    def seeds(self) -> list[int]:
        """Those of the probes: of Brownian noise, which in A1111 knows no ENSD."""
        return [probe.seed for probe in self._probes]

    def seeded(self) -> list[Callable[[int], Tensor]]:
        """For every probe, what a generator of its source draws first: seed -> (channels, height, width)."""
        return [partial(_first_of, probe.rng, shape=self._shape) for probe in self._probes]

    def _begin(self, probe: Probe, draw: Draw) -> Tensor:
        noise = draw()
        if probe.variation_strength == 0:
            return noise
        variation = _generator(probe.rng, probe.variation_seed, self._shape)()
        return slerp(noise, variation, probe.variation_strength)

    def _stack(self, noise: list[Tensor]) -> Tensor:
        return torch.stack(noise).to(self._device, self._dtype)


def _first_of(rng: Literal["CPU", "NV"], seed: int, shape: Shape) -> Tensor:
    return _generator(rng, seed, shape)()


def _generator(rng: Literal["CPU", "NV"], seed: int, shape: Shape) -> Draw:
    """The numbers of one seed. Seeds count modulo 2**64, as torch takes negative ones, so none overflows."""
    seed %= _SEEDS
    if rng == "NV":
        philox = Philox(seed)
        return lambda: torch.from_numpy(philox.normal(shape))
    generator = torch.Generator("cpu").manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator, dtype=torch.float32)


def slerp(low: Tensor, high: Tensor, share: float) -> Tensor:
    """Spherical interpolation from `low` (share 0) to `high` (share 1), both (channels, height, width).

    As A1111's: every column of every channel is turned by itself, and where the columns are on average nearly
    parallel, so that both noises are as good as equal, they are mixed linearly with the shares exchanged.
    Columns that are parallel or opposite to within rounding have no plane to turn in (A1111 gives NaN or huge
    numbers there); they are mixed linearly.
    """
    cosine = (_unit(low) * _unit(high)).sum(dim=1, keepdim=True)
    if cosine.mean() > 0.9995:
        return share * low + (1 - share) * high
    straight = cosine.abs() > 1 - 1e-6
    angle = torch.acos(cosine.masked_fill(straight, 0.0))
    turned = (torch.sin((1 - share) * angle) * low + torch.sin(share * angle) * high) / torch.sin(angle)
    return torch.where(straight, (1 - share) * low + share * high, turned)


def _unit(columns: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(columns, dim=1, keepdim=True)
    return columns / length


# The multipliers of Philox4x32 and what its key grows by every round (Salmon et al., 2011).
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_ROUNDS = 10
_LOW_32 = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)

# cuRAND's constants in float32; all sums are in float64, as in A1111's source.
_PER_2_32 = np.float64(np.float32(2.3283064e-10))
_TURN_PER_2_32 = np.float64(np.float32(2.3283064e-10 * 6.2831855))

Words = NDArray[np.uint64]
"""32-bit words, each in 64 bits so that a product of two fits."""


def philox4x32(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, ...]:
    """Philox4x32-10: four random 32-bit words per counter, of 32-bit words of one shape and a key of two."""
    a, b, c, d = counter
    left, right = np.uint64(key[0]), np.uint64(key[1])
    for _ in range(_ROUNDS):
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (second >> _32) ^ b ^ left, second & _LOW_32, (first >> _32) ^ d ^ right, first & _LOW_32
        left, right = (left + _KEY_STEPS[0]) & _LOW_32, (right + _KEY_STEPS[1]) & _LOW_32
    return a, b, c, d


class Philox:
    """torch's normal numbers on an Nvidia GPU, as A1111's source "NV" has them.

    seed: 0..2**64-1. They agree with torch's to about 1e-6, for as many numbers at a time as the GPU runs
    threads (at least some 40,000); beyond that, torch's depend on the GPU and these go on as A1111's.
    """

    def __init__(self, seed: int) -> None:
        self._key = (seed & 0xFFFFFFFF, seed >> 32)
        self._calls = 0

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The numbers of the next call, of `shape`: the i-th one is made of the counter (call, 0, i, 0)."""
        index = np.arange(np.prod(shape, dtype=np.int64), dtype=np.uint64)
        zero = np.zeros_like(index)
        x, y, *_ = philox4x32((zero + np.uint64(self._calls), zero, index, zero), self._key)
        self._calls += 1
        radius = np.sqrt(-2.0 * np.log(x * _PER_2_32 + _PER_2_32 / 2))
        angle = y * _TURN_PER_2_32 + _TURN_PER_2_32 / 2
        return (radius * np.sin(angle)).astype(np.float32).reshape(shape)
