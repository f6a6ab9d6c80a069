"""CFG rescale: against the paper's equations number by number, and against diffusers."""

from __future__ import annotations

import statistics

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor

from scoring.rendering.cfg_rescale import rescale_guidance

SHARES = [0.0, 0.3, 0.7, 1.0]


def predictions(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Guided and positive."""
    torch.manual_seed(0)
    positive, negative = torch.randn(2, 3, 4, 5, 6, dtype=dtype)
    return negative + 7.5 * (positive - negative), positive


def literal(guided: Tensor, positive: Tensor, phi: float) -> Tensor:
    """Equations 14 to 16, one image and one number at a time."""
    images = []
    for with_guidance, without in zip(guided, positive, strict=True):
        numbers: list[float] = with_guidance.flatten().tolist()
        factor = statistics.stdev(without.flatten().tolist()) / statistics.stdev(numbers)
        images.append([phi * (x * factor) + (1 - phi) * x for x in numbers])
    return torch.tensor(images, dtype=torch.float64).view_as(guided)


@pytest.mark.parametrize("phi", SHARES)
def test_it_is_the_papers_equations(phi: float) -> None:
    guided, positive = predictions()
    torch.testing.assert_close(rescale_guidance(guided, positive, phi), literal(guided, positive, phi))


@pytest.mark.parametrize("phi", SHARES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_that_of_diffusers(phi: float, dtype: torch.dtype) -> None:
    guided, positive = predictions(dtype)
    expected = rescale_noise_cfg(guided, positive, guidance_rescale=phi)
    torch.testing.assert_close(rescale_guidance(guided, positive, phi), expected)


def test_phi_0_changes_nothing_and_phi_1_gives_the_deviation_of_the_positive() -> None:
    guided, positive = predictions()
    assert torch.equal(rescale_guidance(guided, positive, 0.0), guided)
    found = rescale_guidance(guided, positive, 1.0)
    torch.testing.assert_close(found.std(dim=(1, 2, 3)), positive.std(dim=(1, 2, 3)))


def test_rows_do_not_depend_on_their_neighbours() -> None:
    guided, positive = predictions()
    together = rescale_guidance(guided, positive, 0.7)
    for row in range(3):
        alone = rescale_guidance(guided[row : row + 1], positive[row : row + 1], 0.7)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-12, atol=0)


def test_the_slope_is_right_and_nothing_given_is_written_to() -> None:
    guided, positive = (x[:2, :2, :2, :3].clone().requires_grad_() for x in predictions())
    before = guided.detach().clone()
    assert torch.autograd.gradcheck(lambda g, p: rescale_guidance(g, p, 0.7), (guided, positive))
    assert torch.equal(guided.detach(), before)


def test_an_image_of_one_value_stays_as_it_is() -> None:
    guided = torch.full((1, 4, 2, 2), 0.5, requires_grad=True)
    found = rescale_guidance(guided, torch.randn(1, 4, 2, 2), 0.7)
    torch.testing.assert_close(found, guided)
    (gradient,) = torch.autograd.grad(found.sum(), guided)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    guided, positive = predictions(dtype)
    found = rescale_guidance(guided, positive, 0.7)
    assert torch.equal(found, rescale_guidance(guided.float(), positive.float(), 0.7).to(dtype))
