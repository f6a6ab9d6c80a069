"""Dynamic thresholding: against the extension's rules, written out number by number, and its promises."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from scoring.errors import InputError
from scoring.probes import DynamicThresholding
from scoring.probes.probe import ScaleMode
from scoring.rendering.thresholding import dynamic_thresholding, scale_factor

ROWS, CHANNELS, HEIGHT, WIDTH = 2, 3, 4, 5
ARTICLE = DynamicThresholding(
    mimic_scale=1.0,
    separate_feature_channels=False,
    scaling_startpoint="MEAN",
    variability="AD",
    interpolate_phi=0.3,
    threshold_percentile=100.0,
)


def predictions(parts: int = 2, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "negative": torch.randn(ROWS, CHANNELS, HEIGHT, WIDTH, dtype=dtype) + 0.5,
        "parts": [torch.randn(ROWS, CHANNELS, HEIGHT, WIDTH, dtype=dtype) for _ in range(parts)],
        "weights": torch.tensor([[1.0, 0.7], [0.4, 0.0]], dtype=dtype)[:parts],
        "cfg_scale": torch.tensor([9.0, 4.0], dtype=dtype),
    }


def plain_guidance(negative: Tensor, parts: list[Tensor], weights: Tensor, cfg_scale: Tensor) -> Tensor:
    guided = negative.clone()
    for weight, part in zip(weights, parts, strict=True):
        for row in range(len(negative)):
            guided[row] += cfg_scale[row] * weight[row] * (part[row] - negative[row])
    return guided


# --- a literal reference: lists of floats, one image at a time


def literal_quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def literal_spreads(channels: list[list[float]], share: float, settings: DynamicThresholding) -> list[float]:
    """One number a channel, which is the same for all where they are not separate."""
    centred = [[value - statistics.fmean(channel) for value in channel] for channel in channels]
    groups = centred if settings.separate_feature_channels else [list(itertools.chain(*centred))]
    spreads = [
        statistics.stdev(group)
        if settings.variability == "STD"
        else literal_quantile([abs(value) for value in group], share)
        for group in groups
    ]
    return spreads if settings.separate_feature_channels else spreads * len(channels)


def literal_image(
    guided: list[list[float]], mimicked: list[list[float]], settings: DynamicThresholding
) -> list[list[float]]:
    mimic_spreads = literal_spreads(mimicked, 1.0, settings)
    spreads = literal_spreads(guided, settings.threshold_percentile / 100, settings)
    result = []
    for channel, mimic_spread, spread in zip(guided, mimic_spreads, spreads, strict=True):
        mean = statistics.fmean(channel)
        changed = []
        for value in channel:
            if settings.scaling_startpoint == "ZERO":
                new = value * mimic_spread / spread
            elif settings.variability == "STD":
                new = mean + (value - mean) / spread * mimic_spread
            else:
                limit = max(mimic_spread, spread)
                new = mean + min(max(value - mean, -limit), limit) / limit * mimic_spread
            changed.append(settings.interpolate_phi * new + (1 - settings.interpolate_phi) * value)
        result.append(changed)
    return result


def literal(given: dict[str, Any], settings: DynamicThresholding, mimic_scale: float) -> Tensor:
    guided = plain_guidance(**given).flatten(2)
    mimic_scales = torch.full_like(given["cfg_scale"], mimic_scale)
    mimicked = plain_guidance(**{**given, "cfg_scale": mimic_scales}).flatten(2)
    images = [literal_image(guided[row].tolist(), mimicked[row].tolist(), settings) for row in range(ROWS)]
    return torch.tensor(images, dtype=torch.float64).view(ROWS, CHANNELS, HEIGHT, WIDTH)


@pytest.mark.parametrize("startpoint", ["MEAN", "ZERO"])
@pytest.mark.parametrize("variability", ["AD", "STD"])
@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("percentile", [100.0, 97.3, 60.0])
@pytest.mark.parametrize("phi", [1.0, 0.3])
def test_it_is_what_the_extension_makes_of_every_number(
    startpoint: Any, variability: Any, separate: bool, percentile: float, phi: float
) -> None:
    for mimic_scale in (1.0, 6.0, 15.0):
        settings = DynamicThresholding(
            mimic_scale=mimic_scale,
            scaling_startpoint=startpoint,
            variability=variability,
            separate_feature_channels=separate,
            threshold_percentile=percentile,
            interpolate_phi=phi,
        )
        found = dynamic_thresholding(**predictions(), settings=settings, step=3, steps=20)
        torch.testing.assert_close(found, literal(predictions(), settings, mimic_scale))


def test_the_articles_setting_shrinks_what_guidance_spread() -> None:
    given = predictions(1)
    found = dynamic_thresholding(**given, settings=ARTICLE, step=0, steps=256)
    torch.testing.assert_close(found, literal(given, ARTICLE, 1.0))
    assert (found.flatten(1).std(dim=1) < plain_guidance(**given).flatten(1).std(dim=1)).all()


# --- the twelve modes

QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
FACTORS: dict[str, tuple[float, tuple[float, ...]]] = {
    "Constant": (4, (1, 1, 1, 1, 1)),
    "Linear Down": (4, (1, 0.75, 0.5, 0.25, 0)),
    "Cosine Down": (4, (1, 0.92388, 0.70711, 0.38268, 0)),
    "Half Cosine Down": (4, (1, 0.968912, 0.877583, 0.731689, 0.540302)),
    "Linear Up": (4, (0, 0.25, 0.5, 0.75, 1)),
    "Cosine Up": (4, (0, 0.07612, 0.29289, 0.61732, 1)),
    "Half Cosine Up": (4, (0, 0.031088, 0.122417, 0.268311, 0.459698)),
    "Power Up": (2, (0, 0.0625, 0.25, 0.5625, 1)),
    "Power Down": (3, (1, 0.984375, 0.875, 0.578125, 0)),
    "Linear Repeating": (1.5, (1, 0.25, 0.5, 0.75, 0)),
    "Cosine Repeating": (2, (1, 0, 1, 0, 1)),
    "Sawtooth": (1.5, (0, 0.375, 0.75, 0.125, 0.5)),
}


def test_every_mode_has_a_table() -> None:
    assert set(FACTORS) == set(get_args(ScaleMode))


@pytest.mark.parametrize("mode", FACTORS)
def test_the_modes_are_as_tabled(mode: Any) -> None:
    value, factors = FACTORS[mode]
    found = [scale_factor(mode, share, value) for share in QUARTERS]
    assert found == pytest.approx(factors, abs=1.1e-4)  # the extension's pi / 2 is 1.5707


@pytest.mark.parametrize("mode", FACTORS)
def test_modes_go_down_to_the_minima(mode: Any) -> None:
    value, factors = FACTORS[mode]
    settings = DynamicThresholding(
        mimic_scale=6.0,
        mimic_mode=mode,
        mimic_scale_min=2.0,
        cfg_mode=mode,
        cfg_scale_min=3.0,
        sched_value=value,
    )
    constant = DynamicThresholding(mimic_scale=6.0)
    given = predictions()
    for step in range(5):
        found = dynamic_thresholding(**given, settings=settings, step=step, steps=5)
        cfg_scale = 3.0 + (given["cfg_scale"] - 3.0) * factors[step]
        expected = literal({**given, "cfg_scale": cfg_scale}, constant, 2.0 + 4.0 * factors[step])
        torch.testing.assert_close(found, expected, atol=5e-3, rtol=5e-3)


def test_one_step_is_the_first_of_many() -> None:
    settings = DynamicThresholding(mimic_scale=3.0, mimic_mode="Linear Down", cfg_mode="Half Cosine Down")
    alone = dynamic_thresholding(**predictions(), settings=settings, step=0, steps=1)
    assert torch.equal(alone, dynamic_thresholding(**predictions(), settings=settings, step=0, steps=9))


@pytest.mark.parametrize("mode", ["Power Up", "Power Down"])
def test_a_power_below_zero_is_refused(mode: Any) -> None:
    settings = DynamicThresholding(cfg_mode=mode, sched_value=-1.0)
    with pytest.raises(InputError, match=r"sched_value -1\.0 .* give 0 or more"):
        dynamic_thresholding(**predictions(), settings=settings, step=0, steps=5)


# --- what it promises


def all_settings(**fields: Any) -> list[DynamicThresholding]:
    kinds: Any = itertools.product(("MEAN", "ZERO"), ("AD", "STD"), (True, False))
    names = ("scaling_startpoint", "variability", "separate_feature_channels")
    return [DynamicThresholding(**fields, **dict(zip(names, kind, strict=True))) for kind in kinds]


@pytest.mark.parametrize("settings", all_settings(interpolate_phi=0.0, mimic_scale=2.0))
def test_phi_0_is_plain_guidance(settings: DynamicThresholding) -> None:
    found = dynamic_thresholding(**predictions(), settings=settings, step=1, steps=5)
    torch.testing.assert_close(found, plain_guidance(**predictions()))


@pytest.mark.parametrize("settings", all_settings(mimic_scale=9.0))
def test_mimicking_the_scale_itself_is_plain_guidance(settings: DynamicThresholding) -> None:
    given = {**predictions(), "cfg_scale": torch.tensor([9.0, 9.0])}
    found = dynamic_thresholding(**given, settings=settings, step=1, steps=5)
    torch.testing.assert_close(found, plain_guidance(**given))


@pytest.mark.parametrize("settings", [ARTICLE, *all_settings(threshold_percentile=95.0)])
def test_rows_do_not_depend_on_their_neighbours(settings: DynamicThresholding) -> None:
    given = predictions()
    together = dynamic_thresholding(**given, settings=settings, step=1, steps=5)
    for row in range(ROWS):
        alone = dynamic_thresholding(
            given["negative"][row : row + 1],
            [part[row : row + 1] for part in given["parts"]],
            given["weights"][:, row : row + 1],
            given["cfg_scale"][row : row + 1],
            settings,
            1,
            5,
        )
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", [ARTICLE, *all_settings(mimic_scale=2.0, threshold_percentile=95.0)])
def test_the_slope_is_right_and_nothing_given_is_written_to(settings: DynamicThresholding) -> None:
    given = predictions(1)
    negative, (part,) = given["negative"].requires_grad_(), given["parts"]
    part.requires_grad_()
    before = negative.detach().clone()

    def function(negative: Tensor, part: Tensor) -> Tensor:
        return dynamic_thresholding(
            negative, [part], given["weights"], given["cfg_scale"], settings, step=1, steps=5
        )

    assert torch.autograd.gradcheck(function, (negative, part))
    assert torch.equal(negative.detach(), before)


@pytest.mark.parametrize("settings", all_settings(threshold_percentile=0.0, mimic_scale=2.0))
@pytest.mark.parametrize("size", [(1, 1), (2, 2)])
def test_images_of_one_value_stay_finite(settings: DynamicThresholding, size: tuple[int, int]) -> None:
    negative = torch.full((1, 3, *size), 0.5, requires_grad=True)
    part = torch.full((1, 3, *size), 0.75)
    found = dynamic_thresholding(
        negative, [part], torch.ones(1, 1), torch.tensor([4.0]), settings, step=0, steps=5
    )
    torch.testing.assert_close(found, torch.full_like(found, 0.5 + 4 * 0.25))
    (gradient,) = torch.autograd.grad(found.sum(), negative)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    given = predictions(dtype=dtype)
    settings = DynamicThresholding(mimic_scale=2.0, threshold_percentile=95.0)
    found = dynamic_thresholding(**given, settings=settings, step=1, steps=5)
    exact: dict[str, Any] = {k: v.float() for k, v in given.items() if k != "parts"}
    exact["parts"] = [part.float() for part in given["parts"]]
    assert torch.equal(found, dynamic_thresholding(**exact, settings=settings, step=1, steps=5).to(dtype))


def test_large_latents_are_not_too_many_for_the_percentile() -> None:
    """Those of 8192 x 8192 pixels, 4 channels at once."""
    latents = torch.linspace(-1, 1, 4 * 1024 * 1024).view(1, 4, 1024, 1024)
    settings = DynamicThresholding(separate_feature_channels=False, threshold_percentile=99.0)
    found = dynamic_thresholding(
        torch.zeros_like(latents), [latents], torch.ones(1, 1), torch.tensor([7.0]), settings, 0, 5
    )
    assert torch.isfinite(found).all()
