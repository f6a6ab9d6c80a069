"""Every algorithm against its published formula, one number at a time, and on problems that are solved."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from scoring.rendering.sampling.noise_source import StepNoise
from scoring.rendering.sampling.plan import ALGORITHMS
from scoring.rendering.sampling.runge_kutta import restart_steps
from scoring.rendering.sampling.schedules import karras_between
from tests.unit.scoring.sampling.references import REFERENCES

ENDS_AT_0 = [11.0, 6.5, 3.0, 1.4, 0.7, 0.2, 0.0]
ENDS_ABOVE = [11.0, 6.5, 3.0, 1.4, 0.7, 0.2, 0.04]
NOT_TO_0 = ("PLMS", "UniPC")  # their formulas have no step to 0; DPM fast needs two levels above it
STARTS = [3.7, -12.0, 0.4, 8.8]


def denoise(x: float, sigma: float) -> float:
    return x * 0.6 / (0.6 + sigma**2) + 0.3 * math.tanh(x / (1 + sigma)) * math.sin(sigma)


def model(x: Tensor, sigma: Tensor) -> Tensor:
    assert sigma.ndim == 0
    return x * 0.6 / (0.6 + sigma**2) + 0.3 * torch.tanh(x / (1 + sigma)) * torch.sin(sigma)


class WavyNoise:
    """Noise that is a plain function of the image, of how often it was asked, and of the levels."""

    def __init__(self) -> None:
        self.drawn = 0

    def next(self) -> Tensor:
        self.drawn += 1
        return torch.tensor([wave(i, self.drawn) for i in range(4)], dtype=torch.float64).view(4, 1, 1, 1)

    def between(self, sigma: float, sigma_next: float) -> Tensor:
        values = [wave_between(i, sigma, sigma_next) for i in range(4)]
        return torch.tensor(values, dtype=torch.float64).view(4, 1, 1, 1)


def wave(image: int, drawn: int) -> float:
    return math.cos(2.3 * image + 1.7 * drawn)


def wave_between(image: int, sigma: float, sigma_next: float) -> float:
    return math.cos(2.3 * image + 3 * sigma - 5 * sigma_next)


def reference(name: str, sigmas: list[float], eta: float) -> list[float]:
    results = []
    for image, start in enumerate(STARTS):
        count = iter(range(1, 1000))
        results.append(
            REFERENCES[name](
                denoise,
                start,
                sigmas,
                lambda image=image, count=count: wave(image, next(count)),
                lambda a, b, image=image: wave_between(image, a, b),
                eta,
            )
        )
    return results


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("name", REFERENCES)
def test_it_is_the_published_formula(name: str, steps: int, eta: float) -> None:
    for sigmas in (ENDS_AT_0, ENDS_ABOVE):
        if sigmas[-1] == 0 and (name in NOT_TO_0 or (name == "DPM fast" and steps == 1)):
            continue
        short = [*sigmas[:steps], sigmas[-1]]
        x = torch.tensor(STARTS, dtype=torch.float64).view(4, 1, 1, 1)
        found = ALGORITHMS[name](model, x, torch.tensor(short), noise=WavyNoise(), eta=eta)
        short = torch.tensor(short).tolist()  # as float32 rounds them
        torch.testing.assert_close(
            found.flatten().tolist(), reference(name, short, eta), rtol=1e-7, atol=1e-9
        )


def test_every_sampler_has_a_reference() -> None:
    assert set(ALGORITHMS) == {*REFERENCES, "Restart"}


@pytest.mark.parametrize("steps", [5, 19])
def test_restart_of_few_steps_is_heun(steps: int) -> None:
    sigmas = karras_between(14.6, 0.03, steps)
    x = torch.tensor(STARTS, dtype=torch.float64).view(4, 1, 1, 1)
    heun = ALGORITHMS["Heun"](model, x, sigmas, noise=WavyNoise(), eta=1)
    torch.testing.assert_close(ALGORITHMS["Restart"](model, x, sigmas, noise=WavyNoise(), eta=1), heun)


@pytest.mark.parametrize(("steps", "again", "times"), [(20, 9, 1), (35, 9, 1), (36, 9, 2), (50, 12, 2)])
def test_restart_goes_back_as_a1111_does(steps: int, again: int, times: int) -> None:
    """Its plan, written out: Karras' levels down to 0.1, `times` from 2 to there again, the rest."""
    made = restart_steps(karras_between(14.6, 0.03, steps))
    levels = karras_between(14.6, 0.03, steps - again * times).tolist()
    low = min(range(len(levels)), key=lambda i: abs(levels[i] - 0.1))
    high = min(range(len(levels)), key=lambda i: abs(levels[i] - 2))
    first = list(pairwise(levels[: low + 1]))
    assert made[: len(first)] == first
    rest = list(pairwise(levels[low:]))
    assert made[-len(rest) :] == rest
    backs = made[len(first) : -len(rest)]
    assert len(backs) == again * times
    for k in range(times):
        back = backs[k * again : (k + 1) * again]
        root = [levels[high] ** (1 / 7), levels[low] ** (1 / 7)]
        for i, (here, there) in enumerate(back):
            assert here == pytest.approx((root[0] + (root[1] - root[0]) * i / again) ** 7)
            assert there == pytest.approx((root[0] + (root[1] - root[0]) * (i + 1) / again) ** 7)
    assert len(made) == steps


def test_restart_adds_the_noise_between_the_levels() -> None:
    sigmas = karras_between(14.6, 0.03, 24)
    steps = restart_steps(sigmas)
    for image, start in enumerate(STARTS):
        x, at, drawn = start, steps[0][0], 0
        for here, there in steps:
            if here > at:
                drawn += 1
                x += wave(image, drawn) * math.sqrt(here**2 - at**2)
            x = REFERENCES["Heun"](denoise, x, [here, there], None, None, 0)
            at = there
        assert drawn == 1
        one = torch.full((4, 1, 1, 1), start, dtype=torch.float64)
        found = ALGORITHMS["Restart"](model, one, sigmas, noise=WavyNoise(), eta=1)
        assert found[image].item() == pytest.approx(x, rel=1e-9)


# ---- Gaussian images, of which the answer is known

VARIANCE = 0.5


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    return x * (VARIANCE / (VARIANCE + sigma**2))


def _error(name: str, steps: int) -> float:
    sigmas = torch.linspace(math.log(8), math.log(0.4), steps + 1, dtype=torch.float64).exp()
    x = torch.full((1, 1, 1, 1), 5.0, dtype=torch.float64)
    found = ALGORITHMS[name](gaussian, x, sigmas, noise=WavyNoise(), eta=0)
    exact = 5.0 * math.sqrt((VARIANCE + 0.4**2) / (VARIANCE + 8**2))
    return abs(found.item() - exact)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("Euler", 1),
        ("Euler a", 1),
        ("Heun", 2),
        ("DPM2", 2),
        ("DPM2 a", 2),
        ("LMS", 2),
        ("DPM++ 2S a", 2),
        ("DPM++ SDE", 2),
        ("DPM++ 2M", 2),
        ("DPM++ 2M SDE", 2),
        ("DPM++ 2M SDE Heun", 2),
        ("DPM++ 3M SDE", 2),  # of third order after a first step of first
        ("UniPC", 2),
    ],
)
def test_the_error_falls_with_the_order(name: str, order: int) -> None:
    assert math.log2(_error(name, 64) / _error(name, 128)) > order - 0.3


@pytest.mark.parametrize(
    "name",
    ["Euler a", "DPM2 a", "DPM++ 2S a", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE"],
)
def test_noise_on_the_way_keeps_the_images_variance(name: str) -> None:
    generator = torch.Generator().manual_seed(1)

    def draw() -> Tensor:
        return torch.randn(20000, 1, 1, 1, generator=generator, dtype=torch.float64)

    sigmas = karras_between(14.6, 0.03, 300 if name == "Euler a" else 60)
    found = ALGORITHMS[name](gaussian, draw() * 14.6, sigmas, noise=StepNoise(draw), eta=1)
    assert found.var().item() == pytest.approx(VARIANCE, rel=0.05)


def test_ddim_with_eta_1_leaves_ddpms_variance() -> None:
    """Of one step to an image that is known: the variance of the posterior, Ho et al. (2020), eq. 7."""
    here, there = 5.0, 2.0
    a, a_prev = 1 / (1 + here**2), 1 / (1 + there**2)
    posterior = (1 - a_prev) / (1 - a) * (1 - a / a_prev)
    generator = torch.Generator().manual_seed(2)
    x = torch.full((20000, 1, 1, 1), 1.5)
    noise = StepNoise(lambda: torch.randn(x.shape, generator=generator))
    known: Callable[[Tensor, Tensor], Tensor] = lambda x, sigma: torch.zeros_like(x)  # noqa: E731
    found = ALGORITHMS["DDIM"](known, x, torch.tensor([here, there]), noise=noise, eta=1.0)
    assert (found * math.sqrt(a_prev)).var().item() == pytest.approx(posterior, rel=0.03)


@pytest.mark.parametrize(
    ("ancestral", "plain"), [("Euler a", "Euler"), ("DPM2 a", "DPM2"), ("DPM++ 2M SDE", "DPM++ 2M")]
)
def test_with_eta_0_it_is_the_plain_sampler(ancestral: str, plain: str) -> None:
    x = torch.tensor(STARTS, dtype=torch.float64).view(4, 1, 1, 1)
    sigmas = torch.tensor(ENDS_AT_0)
    found = ALGORITHMS[ancestral](model, x, sigmas, noise=WavyNoise(), eta=0.0)
    torch.testing.assert_close(found, ALGORITHMS[plain](model, x, sigmas, noise=WavyNoise(), eta=0.0))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_can_be_differentiated_and_leaves_its_input_alone(name: str) -> None:
    x = torch.tensor(STARTS, dtype=torch.float64).view(4, 1, 1, 1).requires_grad_()
    weight = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    before = x.detach().clone()
    sigmas = torch.tensor(ENDS_ABOVE, dtype=torch.float64)

    def run(weight: Tensor) -> Tensor:
        return ALGORITHMS[name](
            lambda x, s: model(x, s) * weight, x, sigmas, noise=WavyNoise(), eta=0.5
        ).sum()

    (slope,) = torch.autograd.grad(run(weight), weight)
    with torch.no_grad():
        measured = (run(weight + 1e-5) - run(weight - 1e-5)) / 2e-5
    assert slope.item() == pytest.approx(measured.item(), rel=1e-5)
    assert torch.equal(x.detach(), before)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_keeps_the_latents_dtype(name: str) -> None:
    x = torch.ones(4, 1, 1, 1, dtype=torch.float32)
    noise = StepNoise(lambda: torch.ones(4, 1, 1, 1))
    found = ALGORITHMS[name](model, x, torch.tensor(ENDS_ABOVE), noise=noise, eta=1.0)
    assert found.dtype == torch.float32
