"""FreeU, thresholding, rescaled guidance and the kinds of noise, each in a whole render."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tests.unit.scoring.literal as literal
import tests.unit.scoring.models as models
from scoring.probes import DynamicThresholding, FreeU, FreeUStage, Hires
from scoring.rendering.components import Components
from scoring.rendering.freeu import freeu
from scoring.rendering.renderer import Renderer
from tests.unit.scoring.whole import TOLERANCE, difference, image, probe, states

ARTICLE = DynamicThresholding(mimic_scale=1, separate_feature_channels=False, interpolate_phi=0.3)
STAGES = (
    FreeUStage(backbone_factor=1.1, skip_factor=0.9),
    FreeUStage(backbone_factor=1.2, skip_factor=0.2),
)


def thresholded(settings: DynamicThresholding, scale: float) -> literal.Combine:
    """Around the mean of each channel, by the largest distance of all (MEAN, AD, channels together)."""

    def combine(negative: Tensor, positive: Tensor, _step: int, _steps: int) -> Tensor:
        pull = positive - negative
        guided, mimicked = negative + scale * pull, negative + settings.mimic_scale * pull
        means = [float(guided[0, channel].mean()) for channel in range(4)]
        wide = max(float((guided[0, c] - means[c]).abs().max()) for c in range(4))
        narrow = max(float((mimicked[0, c] - mimicked[0, c].mean()).abs().max()) for c in range(4))
        limit = max(wide, narrow)
        result = torch.empty_like(guided)
        for c in range(4):
            clamped = (guided[0, c] - means[c]).clamp(-limit, limit)
            result[0, c] = means[c] + clamped * narrow / limit
        return settings.interpolate_phi * result + (1 - settings.interpolate_phi) * guided

    return combine


@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_thresholding_is_of_the_images_that_the_answers_lead_to(name: str) -> None:
    components: Components = getattr(models, name)()
    wanted = probe(thresholding=ARTICLE, cfg_scale=6, hires=Hires(scale=1.5))
    said, combine = states(components), thresholded(ARTICLE, 6)
    with torch.no_grad():
        first = literal.first_pass(components, wanted, said, combine)
        second = literal.second_pass(components, wanted, first, said, combine, width=6, height=6)
        by_hand = literal.decoded(components, second)
    assert difference(image(components, wanted), by_hand) <= TOLERANCE
    if name == "sd2":  # the other one's random weights hardly tell the prompts apart
        plain = probe(cfg_scale=6, hires=Hires(scale=1.5))
        assert difference(image(components, plain), by_hand) > TOLERANCE


def test_guidance_1_is_thresholded_too() -> None:
    components = models.sd1()
    wanted = probe(thresholding=DynamicThresholding(mimic_scale=3), cfg_scale=1)
    assert difference(image(components, wanted), image(components, probe(cfg_scale=1))) > TOLERANCE


@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_rescaling_gives_guidance_the_deviation_of_the_prompt_alone(name: str) -> None:
    components: Components = getattr(models, name)()
    said = states(components)

    def combine(negative: Tensor, positive: Tensor, _step: int, _steps: int) -> Tensor:
        guided = negative + 6 * (positive - negative)
        return guided * (0.7 * float(positive.std() / guided.std()) + 0.3)

    wanted = probe(cfg_rescale=0.7, cfg_scale=6)
    with torch.no_grad():
        by_hand = literal.decoded(components, literal.first_pass(components, wanted, said, combine))
    assert difference(image(components, wanted), by_hand) <= TOLERANCE
    assert difference(image(components, probe(cfg_scale=6)), by_hand) > TOLERANCE


def test_thresholding_leaves_no_rescaling_as_in_a1111() -> None:
    components = models.sd1()
    both = image(components, probe(thresholding=ARTICLE, cfg_rescale=0.7))
    assert torch.equal(both, image(components, probe(thresholding=ARTICLE)))


@pytest.mark.parametrize("version", [1, 2])
def test_freeu_acts_in_every_evaluation_of_the_first_pass(version: Any) -> None:
    components = models.sd1()
    settings = FreeU(stages=STAGES, version=version)
    wanted = probe(freeu=settings)
    with torch.no_grad(), freeu(components.unet, settings):
        first = literal.first_pass(components, wanted, states(components))
        by_hand = literal.decoded(components, first)
    assert difference(image(components, wanted), by_hand) <= TOLERANCE
    assert difference(image(components, probe()), by_hand) > TOLERANCE


def test_freeu_has_ended_before_a_second_pass_of_no_more_steps() -> None:
    components = models.sd1()
    settings = FreeU(stages=STAGES)
    wanted = probe(freeu=settings, hires=Hires(scale=1.5))
    said = states(components)
    with torch.no_grad():
        with freeu(components.unet, settings):
            first = literal.first_pass(components, wanted, said)
        second = literal.second_pass(components, wanted, first, said, width=6, height=6)
        by_hand = literal.decoded(components, second)
    assert difference(image(components, wanted), by_hand) <= TOLERANCE


@pytest.mark.parametrize(
    "fields",
    [
        {"rng": "NV"},
        {"variation_seed": 7, "variation_strength": 0.5},
        {"sampler": "Euler a", "ensd": 31337},
        {"sampler": "Euler a", "eta": 0.5},
        {"sampler": "DPM++ 2M SDE", "rng": "NV"},
        {"schedule": "Karras"},
    ],
)
def test_what_changes_noise_and_schedule_changes_the_image_the_same_every_time(
    fields: dict[str, Any],
) -> None:
    components = models.sd1()
    changed = image(components, probe(**fields))
    assert torch.equal(changed, image(components, probe(**fields)))
    without = {name: value for name, value in fields.items() if name == "sampler"}
    assert difference(changed, image(components, probe(**without))) > TOLERANCE


def test_eta_0_adds_no_noise() -> None:
    components = models.sd1()
    assert (
        difference(image(components, probe(sampler="Euler a", eta=0)), image(components, probe()))
        <= TOLERANCE
    )


def test_the_seed_alone_decides_the_noise_not_the_batch() -> None:
    components = models.sd1()
    probes = [
        probe(sampler="DPM++ SDE", seed=1),
        probe(sampler="DPM++ SDE", seed=2, rng="NV", ensd=5),
        probe(sampler="DPM++ SDE", seed=3, variation_seed=1, variation_strength=0.2),
    ]
    with torch.no_grad():
        ((_, together),) = Renderer(components, "cpu").render(probes)
    for alone, shared in zip(probes, together, strict=True):
        assert difference(image(components, alone), shared) <= TOLERANCE
