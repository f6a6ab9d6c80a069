"""FreeU: against sums written out by hand, against diffusers where both mean the same, and in a real UNet."""

from __future__ import annotations

import cmath
import math
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from scoring.probes import FreeU, FreeUStage
from scoring.rendering.acceleration import accelerate
from scoring.rendering.freeu import filter_skip, freeu, scale_backbone, schedule_ratio
from tests.unit.scoring.models import sd1


def stage(**fields: Any) -> FreeUStage:
    return FreeUStage(**fields)


# --- the skip's filter


def literal_filter(image: Tensor, cutoff: float, low: float, high: float) -> Tensor:
    """One map (h, w) by the definition of the discrete Fourier transform, frequency by frequency."""
    height, width = image.shape
    reach_y = max(1, math.floor(cutoff * (height // 2)))
    reach_x = max(1, math.floor(cutoff * (width // 2)))
    result = torch.zeros(height, width, dtype=torch.float64)
    for fy in range(-(height // 2), height - height // 2):
        for fx in range(-(width // 2), width - width // 2):
            is_low = -reach_y <= fy < reach_y and -reach_x <= fx < reach_x
            amount = sum(
                float(image[y, x]) * cmath.exp(-2j * math.pi * (fy * y / height + fx * x / width))
                for y in range(height)
                for x in range(width)
            )
            for y in range(height):
                for x in range(width):
                    wave = cmath.exp(2j * math.pi * (fy * y / height + fx * x / width))
                    result[y, x] += (low if is_low else high) * (amount * wave).real / (height * width)
    return result


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 3), (4, 4), (5, 6), (7, 3)])
@pytest.mark.parametrize("cutoff", [0.0, 0.5, 0.99, 1.0])
def test_the_filter_is_the_fourier_sum(size: tuple[int, int], cutoff: float) -> None:
    torch.manual_seed(0)
    skip = torch.randn(2, 2, *size)
    found = filter_skip(skip, cutoff, 0.3, 1.7)
    for row in range(2):
        for channel in range(2):
            expected = literal_filter(skip[row, channel], cutoff, 0.3, 1.7)
            torch.testing.assert_close(found[row, channel].double(), expected, atol=2e-6, rtol=1e-5)


def test_the_filter_keeps_the_dtype_and_sums_in_float32() -> None:
    torch.manual_seed(0)
    skip = torch.randn(2, 3, 6, 5)
    for dtype in (torch.float16, torch.bfloat16):
        found = filter_skip(skip.to(dtype), 0.0, 0.2, 1.0)
        assert found.dtype == dtype
        assert torch.equal(found, filter_skip(skip.to(dtype).float(), 0.0, 0.2, 1.0).to(dtype))
    assert filter_skip(skip.double(), 0.0, 0.2, 1.0).dtype == torch.float64


# --- the backbone


def literal_backbone(
    hidden: Tensor, region: set[int], version: int, factor: float, ratio: float = 1.0
) -> Tensor:
    rows, channels, height, width = hidden.shape
    factor = 1 + ratio * (factor - 1)
    result = hidden.clone()
    for n in range(rows):
        means = {
            (y, x): sum(float(hidden[n, c, y, x]) for c in range(channels)) / channels
            for y in range(height)
            for x in range(width)
        }
        smallest, largest = min(means.values()), max(means.values())
        for (y, x), mean in means.items():
            share = 1.0 if version == 1 else (mean - smallest) / (largest - smallest)
            for c in region:
                result[n, c, y, x] = hidden[n, c, y, x] * (1 + (factor - 1) * share)
    return result


REGIONS = [
    # offset, width, the channels out of 8; both ends belong to the region, or to what is left out of it.
    (0.0, 0.5, {0, 1, 2, 3, 4}),
    (0.0, 0.0, {0}),
    (0.0, 1.0, set(range(8))),
    (1.0, 0.5, {0, 1, 2, 3, 4}),
    (0.25, 0.5, {2, 3, 4, 5, 6}),
    (0.5, 0.5, {4, 5, 6, 7}),
    (0.75, 0.5, {0, 1, 7}),
    (0.5, 1.0, {0, 1, 2, 3, 5, 6, 7}),
    (0.1, 0.2, {1, 2}),
    (0.3125, 0.0, {2}),  # 2.5 is rounded to the even number
]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("offset", "width", "region"), REGIONS)
def test_the_backbone_is_scaled_in_its_region(
    offset: float, width: float, region: set[int], version: Any
) -> None:
    torch.manual_seed(1)
    hidden = torch.randn(2, 8, 3, 2)
    settings = stage(backbone_factor=1.4, backbone_offset=offset, backbone_width=width)
    for ratio in (1.0, 0.25):
        found = scale_backbone(hidden, settings, version, ratio)
        torch.testing.assert_close(found, literal_backbone(hidden, region, version, 1.4, ratio))


@pytest.mark.parametrize("version", [1, 2])
def test_rows_do_not_depend_on_their_neighbours(version: Any) -> None:
    torch.manual_seed(1)
    hidden = torch.randn(3, 8, 3, 4)
    settings = stage(backbone_factor=1.4)
    together = scale_backbone(hidden, settings, version, 1.0)
    for row in range(3):
        assert torch.equal(
            together[row : row + 1], scale_backbone(hidden[row : row + 1], settings, version, 1.0)
        )


def test_a_map_without_structure_is_not_scaled() -> None:
    hidden = torch.randn(2, 8, 1, 1, requires_grad=True)
    found = scale_backbone(hidden, stage(backbone_factor=1.4), 2, 1.0)
    assert torch.equal(found, hidden)
    (gradient,) = torch.autograd.grad(found.sum(), hidden)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("version", [1, 2])
def test_what_is_given_is_not_written_to_and_the_slope_is_right(version: Any) -> None:
    torch.manual_seed(2)
    features = torch.randn(1, 4, 2, 3, dtype=torch.float64)
    before = features.clone()
    settings = stage(backbone_factor=1.4)
    scale_backbone(features, settings, version, 1.0)
    filter_skip(features, 0.0, 0.2, 1.1)
    assert torch.equal(features, before)
    features.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: scale_backbone(x, settings, version, 0.7), features)
    assert torch.autograd.gradcheck(lambda x: filter_skip(x, 0.0, 0.2, 1.1), features)


# --- the schedule


def literal_ratio(step: int, steps: int, settings: FreeU) -> float:
    """The extension's schedule, in steps."""
    start, stop = math.floor(settings.start * steps), math.floor(settings.stop * steps)
    flat = 1.0 if start <= step < stop else 0.0
    if start == stop:
        smooth = 0.0
    elif step < start:
        smooth = step / start
    elif stop < start:
        smooth = 1.0
    else:
        smooth = 0.0 if step >= stop else (stop - step) / (stop - start)
    return flat + settings.transition * (smooth - flat)


@pytest.mark.parametrize("transition", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("start", "stop"), [(0.0, 1.0), (0.2, 0.75), (0.0, 0.0), (0.5, 0.5), (0.9, 0.3), (0.33, 1.0), (1.0, 1.0)]
)
def test_the_schedule_is_that_of_the_steps(start: float, stop: float, transition: float) -> None:
    settings = FreeU(start=start, stop=stop, transition=transition)
    for steps in (1, 7, 20):
        for step in range(2 * steps):  # a second pass may go on counting
            found = schedule_ratio(step / steps, settings, steps)
            assert found == pytest.approx(literal_ratio(step, steps, settings), abs=1e-12)


def test_without_a_number_of_steps_shares_are_not_rounded() -> None:
    settings = FreeU(start=0.25, stop=0.75)
    assert [schedule_ratio(step / 10, settings, None) for step in range(10)] == [0] * 3 + [1] * 5 + [0] * 2
    assert [schedule_ratio(step / 10, settings, 10) for step in range(10)] == [0] * 2 + [1] * 5 + [0] * 3


# --- in a UNet


def inputs(unet: Any, rows: int = 2) -> dict[str, Any]:
    torch.manual_seed(3)
    return {
        "sample": torch.randn(rows, 4, 16, 24),
        "timestep": torch.tensor(500),
        "encoder_hidden_states": torch.randn(rows, 5, unet.config.cross_attention_dim),
    }


def run(unet: Any, settings: FreeU | None, done: float = 0.0, **options: Any) -> Tensor:
    with torch.no_grad(), freeu(unet, settings) as set_done:
        set_done(done, **options)
        sample: Tensor = unet(**inputs(unet)).sample
    return sample


def hooks(unet: Any) -> int:
    return sum(len(module._forward_pre_hooks) for module in unet.modules())


def low_waves(size: int, reach: int) -> Tensor:
    """What keeps of `size` numbers the frequencies -reach..reach-1: (size, size), by definition."""
    frequencies = range(-reach, reach) if size > 1 else [0]
    return torch.tensor(
        [
            [
                sum(cmath.exp(2j * math.pi * f * (y - x) / size) / size for f in frequencies)
                for x in range(size)
            ]
            for y in range(size)
        ]
    )


def summed_filter(skip: Tensor, chosen: FreeUStage) -> Tensor:
    """`literal_filter` for many maps at once: the sums over x and over y are products with matrices."""
    reaches = [max(1, math.floor(chosen.skip_cutoff * (size // 2))) for size in skip.shape[2:]]
    rows, columns = (low_waves(size, reach) for size, reach in zip(skip.shape[2:], reaches, strict=True))
    low = torch.einsum("yj,ncjk,xk->ncyx", rows, skip.to(rows), columns).real
    return chosen.skip_high_end_factor * skip + (chosen.skip_factor - chosen.skip_high_end_factor) * low


def test_the_summed_filter_is_the_literal_one() -> None:
    chosen = stage(skip_factor=0.3, skip_high_end_factor=1.7, skip_cutoff=0.7)
    skip = torch.randn(1, 1, 5, 6)
    expected = literal_filter(skip[0, 0], 0.7, 0.3, 1.7)
    torch.testing.assert_close(summed_filter(skip, chosen)[0, 0].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("version", [1, 2])
def test_the_decoder_joins_its_features_as_the_extension_does(version: Any) -> None:
    """Every concatenation of the UNet's decoder is replaced, which is how the extension does it."""
    unet = sd1().unet
    settings = FreeU(
        stages=(
            stage(backbone_factor=1.2, skip_factor=0.9, skip_high_end_factor=1.1),
            stage(backbone_factor=1.4, skip_factor=0.2, skip_cutoff=0.6),
        ),
        version=version,
    )
    original = torch.cat

    def cat(tensors: Any, dim: int = 0) -> Tensor:
        if len(tensors) != 2 or dim != 1:
            return original(tensors, dim=dim)
        hidden, skip = tensors
        chosen = settings.stages[[32, 16].index(hidden.shape[1])]
        half = set(range(hidden.shape[1] // 2 + 1))
        scaled = literal_backbone(hidden, half, settings.version, chosen.backbone_factor)
        return original([scaled, summed_filter(skip, chosen)], dim=1)

    given = inputs(unet, 1)
    given["sample"] = given["sample"][..., :8, :16]  # one place by two at the decoder's beginning
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "cat", cat)
        expected = unet(**given).sample
    with torch.no_grad(), freeu(unet, settings):
        found = unet(**given).sample
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("version", [1, 2])
def test_factors_of_one_change_nothing(version: Any) -> None:
    unet = sd1().unet
    assert torch.equal(run(unet, FreeU(stages=(stage(), stage()), version=version)), run(unet, None))


def test_nothing_changes_outside_the_schedule() -> None:
    unet = sd1().unet
    settings = FreeU(start=0.25, stop=0.5)
    plain = run(unet, None)
    assert torch.equal(run(unet, settings, 0.0), plain)
    assert not torch.equal(run(unet, settings, 0.25), plain)
    assert torch.equal(run(unet, settings, 0.5), plain)
    assert torch.equal(run(unet, settings, 0.5, steps=10), plain)
    assert torch.equal(run(unet, settings, 1.5), plain)


def test_it_acts_before_it_is_told_where_it_is() -> None:
    """At the first step, that is."""
    unet = sd1().unet
    with torch.no_grad(), freeu(unet, FreeU()):
        untold = unet(**inputs(unet)).sample
    assert torch.equal(untold, run(unet, FreeU(), 0.0))


def test_each_stage_has_layers_of_its_own() -> None:
    """Stage 1 of a UNet with the widths 32 and 16 hooks as many layers as have 32 channels from before."""
    unet = sd1().unet
    wide, narrow = 5, 3  # 2 + 2 + 1, and 1 + 2 of the four blocks of two
    with freeu(unet, FreeU(stages=(stage(backbone_factor=1.1),))):
        assert hooks(unet) == wide
    with freeu(unet, FreeU(stages=(stage(), stage(backbone_factor=1.1), stage(backbone_factor=3.0)))):
        assert hooks(unet) == wide + narrow


def test_no_settings_hook_nothing_and_hooks_go_also_after_errors() -> None:
    unet = sd1().unet
    plain = run(unet, None)
    with freeu(unet, None) as set_done:
        set_done(0.5)
        assert hooks(unet) == 0
    with pytest.raises(ValueError, match="hooked 8"), freeu(unet, FreeU()):
        raise ValueError(f"hooked {hooks(unet)}")
    assert hooks(unet) == 0
    assert torch.equal(run(unet, None), plain)


@pytest.mark.parametrize("version", [1, 2])
def test_a_row_of_a_batch_is_what_it_is_alone(version: Any) -> None:
    unet = sd1().unet
    settings = FreeU(version=version)
    both = run(unet, settings)
    with torch.no_grad(), freeu(unet, settings):
        alone = unet(**{k: v[1:] if v.ndim else v for k, v in inputs(unet).items()}).sample
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("version", [1, 2])
def test_the_slope_goes_through(version: Any) -> None:
    """Against a difference quotient in the sample, in float64."""
    unet = sd1().unet.double()
    given = {k: v.double() if v.is_floating_point() else v for k, v in inputs(unet, 1).items()}
    sample = given.pop("sample").requires_grad_()
    direction = torch.randn_like(sample)
    with freeu(unet, FreeU(version=version)):
        (gradient,) = torch.autograd.grad(unet(sample, **given).sample.square().sum(), sample)
        with torch.no_grad():
            step = 1e-6 * direction
            above, below = (unet(sample + s, **given).sample.square().sum() for s in (step, -step))
    slope, quotient = (gradient * direction).sum(), (above - below) / 2e-6
    torch.testing.assert_close(slope, quotient, rtol=1e-5, atol=1e-5)


def one_level() -> Any:
    torch.manual_seed(4)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16,),
        layers_per_block=1,
        cross_attention_dim=16,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    ).eval()


def test_version_1_is_that_of_diffusers_in_a_unet_of_one_level() -> None:
    """One level has one width; diffusers scales just half of the channels, so the region ends one earlier."""
    unet = one_level()
    plain = run(unet, None)
    ours = run(unet, FreeU(stages=(stage(backbone_factor=1.3, skip_factor=0.4, backbone_width=7 / 16),)))
    unet.enable_freeu(s1=0.4, s2=1.0, b1=1.3, b2=1.0)
    theirs = run(unet, None)
    unet.disable_freeu()
    assert not torch.allclose(plain, theirs, atol=1e-3)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_a_compiled_unet_applies_it_too() -> None:
    unet = one_level()
    settings = FreeU(version=2, start=0.2, stop=0.8, transition=0.5)
    compiled = torch.compile(unet, backend="eager")
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        torch.testing.assert_close(run(compiled, None), run(unet, None))
        for done in (0.3, 0.5, 0.3):
            torch.testing.assert_close(run(compiled, settings, done), run(unet, settings, done))
        torch.testing.assert_close(run(compiled, None), run(unet, None))


@pytest.mark.slow
def test_what_accelerate_compiles_applies_it() -> None:
    unet, settings = one_level(), FreeU(version=2)
    wanted = run(unet, None), run(unet, settings)
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=True):
        accelerate(unet, torch.nn.Identity(), torch.device("cpu"), compile=True, backend="eager")
        for found, expected in zip((run(unet, None), run(unet, settings)), wanted, strict=True):
            torch.testing.assert_close(found, expected)


def test_a_compiled_unet_that_would_leave_it_out_is_refused() -> None:
    in_place = one_level()
    in_place.compile(backend="eager")
    compiled = torch.compile(one_level(), backend="eager")
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=True):
        for unet in (compiled, in_place):
            with pytest.raises(RuntimeError, match="does not notice FreeU"), freeu(unet, FreeU()):
                pass
            with freeu(unet, None):
                pass
