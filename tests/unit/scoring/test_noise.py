"""Noise as A1111 draws it: against published numbers and against a scalar, literal Philox."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scoring.probes import MAX_SEED, Probe
from scoring.rendering.noise import Philox, SeededNoise, philox4x32, slerp

SHAPE = (4, 6, 5)


def probe(**fields: Any) -> Probe:
    return Probe(prompt="a cat", **{"seed": 7, **fields})


def noise(*probes: Probe, shape: tuple[int, int, int] = SHAPE) -> SeededNoise:
    return SeededNoise(probes, shape, "cpu", torch.float32)


def torch_numbers(seed: int, calls: int, shape: tuple[int, ...] = SHAPE) -> list[Tensor]:
    generator = torch.Generator("cpu").manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(calls)]


# --- a literal Philox4x32-10 and Box-Muller, one number at a time in Python's integers


def scalar_philox(counter: list[int], key: list[int]) -> list[int]:
    counter, key = list(counter), list(key)
    for round_number in range(10):
        if round_number:
            key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
        high0, low0 = divmod(0xD2511F53 * counter[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * counter[2], 2**32)
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
    return counter


def as_float32(number: float) -> float:
    (rounded,) = struct.unpack("f", struct.pack("f", number))
    assert isinstance(rounded, float)
    return rounded


def scalar_normal(seed: int, call: int, index: int) -> float:
    x, y, _, _ = scalar_philox([call, 0, index, 0], [seed % 2**32, seed // 2**32])
    per, turn = as_float32(2.3283064e-10), as_float32(2.3283064e-10 * 6.2831855)
    return as_float32(math.sqrt(-2 * math.log(x * per + per / 2)) * math.sin(y * turn + turn / 2))


KNOWN_ANSWERS = [
    # Random123's tests/kat_vectors, the lines "philox4x32 10": counter, key, result.
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter: str, key: str, result: str) -> None:
    words = [int(word, 16) for word in counter.split()]
    a, b, c, d = (np.array([word, 0], dtype=np.uint64) for word in words)
    left, right = (int(word, 16) for word in key.split())
    found = philox4x32((a, b, c, d), (left, right))
    assert [int(word[0]) for word in found] == [int(word, 16) for word in result.split()]
    assert scalar_philox(words, [left, right]) == [int(word, 16) for word in result.split()]


def test_nv_gives_the_numbers_of_a_gpu() -> None:
    """torch.manual_seed(0); torch.randn(3, 4, device="cuda"), as A1111's rng_philox.py documents it.

    The tolerance is what rounding 2 pi to float32, as cuRAND does, makes of an angle.
    """
    expected = [
        [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
        [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
        [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
    ]
    np.testing.assert_allclose(Philox(0).normal((3, 4)), expected, atol=5e-7, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an Nvidia GPU")
def test_nv_gives_the_numbers_of_this_gpu() -> None:
    generator = torch.Generator("cuda").manual_seed(42)
    philox = Philox(42)
    for _ in range(3):
        found = torch.randn((4, 64, 64), generator=generator, device="cuda").cpu()
        torch.testing.assert_close(torch.from_numpy(philox.normal((4, 64, 64))), found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1, 2**32, 2**64 - 1, 0x123456789ABCDEF])
def test_nv_agrees_with_a_scalar_implementation(seed: int) -> None:
    philox = Philox(seed)
    for call in range(3):
        found = philox.normal((2, 3, 5)).ravel()
        expected = [scalar_normal(seed, call, index) for index in range(30)]
        np.testing.assert_allclose(found, expected, rtol=3e-7, atol=1e-7)


def test_nv_numbers_are_normal() -> None:
    numbers = Philox(5).normal((40_000,)).astype(np.float64)
    assert np.isfinite(numbers).all()
    assert abs(numbers.mean()) < 0.02
    assert abs(numbers.std() - 1) < 0.02


# --- a batch


def test_cpu_noise_is_that_of_torch_and_goes_on() -> None:
    batch = noise(probe(), probe(seed=8))
    found = [batch.first(), batch.next(), batch.next()]
    for row, seed in enumerate((7, 8)):
        for drawn, expected in zip(found, torch_numbers(seed, 3), strict=True):
            assert torch.equal(drawn[row], expected)


def test_nv_noise_goes_on() -> None:
    batch = noise(probe(rng="NV"), probe())
    philox = Philox(7)
    for drawn in (batch.first(), batch.next(), batch.next()):
        assert torch.equal(drawn[0], torch.from_numpy(philox.normal(SHAPE)))


@pytest.mark.parametrize("rng", ["CPU", "NV"])
def test_ensd_takes_effect_after_the_first(rng: Any) -> None:
    batch = noise(probe(rng=rng, ensd=31337), probe(rng=rng))
    plain = noise(probe(rng=rng))
    reseeded = noise(probe(rng=rng, seed=7 + 31337))
    assert torch.equal(batch.first()[0], plain.first()[0])
    expected = [reseeded.first(), reseeded.next()]
    following = [batch.next(), batch.next()]
    for drawn, other in zip(following, expected, strict=True):
        assert torch.equal(drawn[0], other[0])
        assert torch.equal(drawn[1], plain.next()[0])


@pytest.mark.parametrize("rng", ["CPU", "NV"])
@pytest.mark.parametrize("ensd", [1, 2**32, -8, -(2**70), 2**64 - 8])
def test_a_seed_with_ensd_never_overflows(rng: Any, ensd: int) -> None:
    for seed in (7, MAX_SEED):
        batch = noise(probe(rng=rng, seed=seed, ensd=ensd))
        batch.first()
        drawn = batch.next()[0]
        total = (seed + ensd) % 2**64
        expected = Philox(total).normal(SHAPE) if rng == "NV" else torch_numbers(total, 1)[0].numpy()
        np.testing.assert_array_equal(drawn.numpy(), expected)


def test_torch_takes_negative_seeds_modulo_two_to_the_64() -> None:
    """What makes the remainder the same as A1111's sum, where that does not fail."""
    assert torch.Generator("cpu").manual_seed(-8).initial_seed() == 2**64 - 8


def test_rows_do_not_depend_on_their_neighbours() -> None:
    probes = [
        probe(),
        probe(rng="NV", ensd=3),
        probe(seed=9, variation_seed=4, variation_strength=0.3),
        probe(seed=9, ensd=-1),
    ]
    together = noise(*probes)
    alone = [noise(one) for one in probes]
    for draw in ("first", "next", "next"):
        expected = torch.cat([getattr(one, draw)() for one in alone])
        assert torch.equal(getattr(together, draw)(), expected)


def test_noise_is_drawn_in_float32_whatever_is_returned() -> None:
    batch = SeededNoise([probe()], SHAPE, torch.device("cpu"), torch.float16)
    first = batch.first()
    assert first.dtype == torch.float16
    assert torch.equal(first[0], torch_numbers(7, 1)[0].half())


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    noise(probe(variation_strength=0.5), probe(rng="NV")).first()
    assert torch.equal(torch.get_rng_state(), before)


# --- variations


def literal_slerp(low: Tensor, high: Tensor, share: float) -> Tensor:
    """Shoemake's formula for every column of every channel, in Python's floats."""
    channels, height, width = low.shape
    result = torch.empty_like(low)
    for c in range(channels):
        for w in range(width):
            a = [float(low[c, h, w]) for h in range(height)]
            b = [float(high[c, h, w]) for h in range(height)]
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            angle = math.acos(dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b)))
            for h in range(height):
                result[c, h, w] = (
                    math.sin((1 - share) * angle) / math.sin(angle) * a[h]
                    + math.sin(share * angle) / math.sin(angle) * b[h]
                )
    return result


@pytest.mark.parametrize("rng", ["CPU", "NV"])
@pytest.mark.parametrize("strength", [0.05, 0.5, 1.0])
def test_a_variation_turns_towards_the_noise_of_its_seed(rng: Any, strength: float) -> None:
    batch = noise(probe(rng=rng, variation_seed=99, variation_strength=strength))
    plain, other = noise(probe(rng=rng)), noise(probe(rng=rng, seed=99))
    expected = literal_slerp(plain.first()[0], other.first()[0], strength)
    torch.testing.assert_close(batch.first()[0], expected, atol=2e-6, rtol=1e-5)
    assert torch.equal(batch.next(), plain.next())


def test_no_strength_is_no_variation() -> None:
    assert torch.equal(noise(probe(variation_seed=99)).first(), noise(probe()).first())


def test_nearly_parallel_noises_are_mixed_the_other_way_round() -> None:
    low = torch_numbers(1, 1)[0]
    high = low + 1e-3 * torch_numbers(2, 1)[0]
    torch.testing.assert_close(slerp(low, high, 0.25), 0.25 * low + 0.75 * high)
    torch.testing.assert_close(slerp(low, low, 0.25), low)


def test_columns_of_one_number_are_mixed_linearly() -> None:
    low, high = torch_numbers(1, 1, (4, 1, 8))[0], torch_numbers(2, 1, (4, 1, 8))[0]
    torch.testing.assert_close(slerp(low, high, 0.25), 0.75 * low + 0.25 * high)
