from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import tests.unit.scoring.models as models
from scoring.errors import InputError, TrialFailed
from scoring.probes import Probe
from scoring.rendering.components import Components
from scoring.rendering.images import check_images, to_pil
from scoring.rendering.renderer import Renderer
from scoring.rendering.sampling import SAMPLERS
from tests.unit.scoring.diffusers_samplers import EXACT

TOLERANCE = 1e-4


@cache
def model(name: str) -> Components:
    built: Components = getattr(models, name)()
    return built


def probe(**fields: Any) -> Probe:
    return Probe(
        **{"sampler": "Euler", "prompt": "a cat", "seed": 1, "steps": 3, "width": 32, "height": 32, **fields}
    )


def rendered(components: Components, probes: list[Probe], **options: Any) -> Tensor:
    images: dict[int, Tensor] = {}
    with torch.no_grad():
        for indices, batch in Renderer(components, "cpu", **options).render(probes):
            images.update(zip(indices, batch, strict=True))
    return torch.stack([images[i] for i in range(len(probes))])


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize("name", ["sd1", "sd2"])
@pytest.mark.parametrize("sampler", EXACT)
def test_equal_to_the_diffusers_pipeline(name: str, sampler: str) -> None:
    probes = [
        probe(sampler=sampler),
        probe(
            sampler=sampler, prompt="a dog in the sun", negative_prompt="rain", seed=2**32 - 1, cfg_scale=2.5
        ),
    ]
    images = rendered(model(name), probes)
    for image, wanted in zip(images, probes, strict=True):
        assert difference(image, models.pipeline_image(model(name), wanted)) <= TOLERANCE
    assert difference(images[0], images[1]) > 100 * TOLERANCE


def test_equal_to_the_pipeline_on_the_zoos_architecture() -> None:
    probes = [probe(cfg_scale=5), probe(cfg_scale=1, seed=3), probe(width=64, clip_skip=2, sampler="Euler a")]
    for image, wanted in zip(_each(model("emoji"), probes), probes, strict=True):
        assert difference(image, models.pipeline_image(model("emoji"), wanted)) <= TOLERANCE


@pytest.mark.parametrize("clip_skip", [2, 3])
def test_clip_skip_counts_layers_from_the_last(clip_skip: int) -> None:
    wanted = probe(clip_skip=clip_skip)
    (image,) = rendered(model("sd1"), [wanted])
    assert difference(image, models.pipeline_image(model("sd1"), wanted)) <= TOLERANCE
    assert difference(image, rendered(model("sd1"), [probe()])[0]) > TOLERANCE


def _each(components: Components, probes: list[Probe]) -> list[Tensor]:
    return [rendered(components, [one])[0] for one in probes]


@pytest.mark.parametrize("sampler", ["DPM++ 2M Karras", "Euler a"])
def test_an_image_does_not_depend_on_its_batch(sampler: str) -> None:
    probes = [
        probe(seed=seed, sampler=sampler, cfg_scale=cfg) for seed, cfg in ((1, 7.0), (2, 3.0), (3, 1.5))
    ]
    together, apart = rendered(model("sd2"), probes), rendered(model("sd2"), probes, max_batch=1)
    assert difference(together, apart) <= TOLERANCE


def test_probes_of_one_kind_share_a_batch_and_keep_their_index() -> None:
    probes = [
        probe(),
        probe(width=40),
        probe(seed=2),
        probe(sampler="Heun"),
        probe(seed=3),
        probe(cfg_scale=1),
    ]
    with torch.no_grad():
        batches = [
            (indices, tuple(images.shape))
            for indices, images in Renderer(model("sd1"), "cpu", 2).render(probes)
        ]
    assert batches == [
        ([0, 2], (2, 3, 32, 32)),
        ([4], (1, 3, 32, 32)),
        ([1], (1, 3, 32, 40)),
        ([3], (1, 3, 32, 32)),
        ([5], (1, 3, 32, 32)),
    ]


def test_what_is_left_of_a_trial_is_rendered_in_the_same_batches_to_the_bit() -> None:
    probes = [probe(seed=seed) for seed in range(5)]
    renderer = Renderer(model("sd1"), "cpu", 2)
    with torch.no_grad():
        whole = {tuple(indices): images for indices, images in renderer.render(probes)}
        rest = {tuple(indices): images for indices, images in renderer.render(probes, only=[3, 4])}
    assert list(rest) == [(2, 3), (4,)]
    for indices, images in rest.items():
        assert torch.equal(images, whole[indices])


class Stopped(Exception):
    pass


@pytest.mark.parametrize("sampler", ["DPM++ 2M Karras", "Euler a"])
def test_a_render_stopped_at_its_third_step_leaves_no_trace(sampler: str) -> None:
    probes = [probe(seed=seed, sampler=sampler, steps=4) for seed in range(3)]
    renderer = Renderer(model("sd1"), "cpu", 2)
    steps = 0

    def stop_at_the_third() -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise Stopped

    with torch.no_grad(), pytest.raises(Stopped):
        next(renderer.render(probes, between_steps=stop_at_the_third))
    assert steps == 3
    with torch.no_grad():
        after = list(renderer.render(probes))
        fresh = list(Renderer(model("sd1"), "cpu", 2).render(probes))
    for (indices, images), (wanted_indices, wanted) in zip(after, fresh, strict=True):
        assert indices == wanted_indices
        assert torch.equal(images, wanted)


def test_a_render_can_be_stopped_before_it_is_decoded() -> None:
    decoded: list[bool] = []
    components = models.sd1()
    components.vae.decoder.register_forward_hook(lambda *_: decoded.append(True))
    calls: list[int] = []
    with torch.no_grad():
        (_,) = Renderer(components, "cpu").render(
            [probe(steps=3)], between_steps=lambda: calls.append(len(decoded))
        )
    assert calls == [0, 0, 0]
    assert decoded == [True]


def _cuda_is_full() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def _mps_is_full() -> None:
    raise RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB, max allowed: 9.07 GB)")


def _cpu_is_full() -> None:
    torch.empty(2**62, dtype=torch.uint8)


def hold_at_most(module: torch.nn.Module, rows: int, full: Callable[[], None]) -> list[int]:
    """Make `module` run out of memory above `rows`; the list grows by the rows of every call."""
    asked: list[int] = []

    def hook(_module: object, inputs: tuple[Tensor, ...]) -> None:
        asked.append(len(inputs[0]))
        if len(inputs[0]) > rows:
            full()

    module.register_forward_pre_hook(hook)
    return asked


@pytest.mark.parametrize("full", [_cuda_is_full, _mps_is_full, _cpu_is_full])
def test_a_batch_that_does_not_fit_is_halved_once_for_every_size(full: Callable[[], None]) -> None:
    probes = [probe(seed=seed, steps=1) for seed in range(11)]
    components = models.sd1()
    asked = hold_at_most(components.unet, 4, full)  # two images with guidance
    renderer = Renderer(components, "cpu", 8)
    with torch.no_grad():
        batches = {tuple(indices): images for indices, images in renderer.render(probes)}
        assert asked == [16, 8, 4, 4, 4, 4, 4, 2]
        # Two more halves say nothing new: that three images do not fit is known.
        assert list(batches) == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10,)]
        rest = {tuple(indices): images for indices, images in renderer.render(probes, only=[3, 9])}
        assert asked[8:] == [4, 4]
    assert all(torch.equal(rest[indices], batches[indices]) for indices in ((2, 3), (8, 9)))
    images = torch.cat(list(batches.values()))
    assert difference(images, rendered(model("sd1"), probes, max_batch=2)) <= TOLERANCE
    assert renderer.notices == [
        "out of memory on cpu: 8 images of 32x32 do not fit to render at once; from now on at most 4",
        "out of memory on cpu: 4 images of 32x32 do not fit to render at once; from now on at most 2",
    ]


def test_smaller_images_keep_their_batch_when_larger_ones_do_not_fit() -> None:
    probes = [probe(seed=seed, steps=1, width=width) for width in (64, 32) for seed in range(3)]
    components = models.sd1()

    def hook(_module: object, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0][:, 0].numel() > 2 * 2 * 4 * 8:
            _cuda_is_full()

    components.unet.register_forward_pre_hook(hook)
    with torch.no_grad():
        batches = [indices for indices, _ in Renderer(components, "cpu", 3).render(probes)]
    assert batches == [[0, 1], [2], [3, 4, 5]]


def test_what_is_too_much_to_decode_at_once_is_decoded_in_parts() -> None:
    probes = [probe(seed=seed, steps=1) for seed in range(5)]
    components = models.sd1()
    asked = hold_at_most(components.vae.decoder, 2, _cuda_is_full)
    renderer = Renderer(components, "cpu", 5)
    with torch.no_grad():
        ((indices, images),) = renderer.render(probes)
    assert indices == [0, 1, 2, 3, 4]
    assert asked == [5, 3, 2, 1, 2]
    assert difference(images, rendered(model("sd1"), probes)) <= TOLERANCE
    assert [notice.partition(": ")[2] for notice in renderer.notices] == [
        "5 images of 32x32 do not fit to decode at once; from now on at most 3",
        "3 images of 32x32 do not fit to decode at once; from now on at most 2",
    ]


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_an_image_that_does_not_fit_alone_fails_the_trial_and_says_what_to_do(part: str) -> None:
    components = models.sd1()
    module = components.unet if part == "unet" else components.vae.decoder
    hold_at_most(module, 0, _cuda_is_full)
    said = r"probe 0 \('a cat', seed 1\) does not fit, alone, at 32x32; take a smaller size"
    with pytest.raises(TrialFailed, match=said):
        rendered(components, [probe(seed=1), probe(seed=2)])


@pytest.mark.parametrize("error", [RuntimeError("wrong shape"), TrialFailed("'out of memory' is black")])
def test_other_errors_are_no_lack_of_memory(error: Exception) -> None:
    components = models.sd1()

    def fail() -> None:
        raise error

    asked = hold_at_most(components.unet, 0, fail)
    with pytest.raises(RuntimeError, match=str(error)):
        rendered(components, [probe(seed=1), probe(seed=2)])
    assert len(asked) == 1


def test_guidance_1_is_the_prompt_alone_and_0_the_negative_prompt_alone() -> None:
    one, zero, swapped, near_one, near_zero = _each(
        model("sd1"),
        [
            probe(cfg_scale=1, negative_prompt="rain"),
            probe(cfg_scale=0, negative_prompt="rain"),
            probe(cfg_scale=1, prompt="rain"),
            probe(cfg_scale=1.0001, negative_prompt="rain"),
            probe(cfg_scale=0.0001, negative_prompt="rain"),
        ],
    )
    assert difference(zero, swapped) <= TOLERANCE
    assert difference(one, near_one) <= TOLERANCE
    assert difference(zero, near_zero) <= TOLERANCE
    assert difference(one, zero) > TOLERANCE


@pytest.mark.parametrize("sampler", dict.fromkeys(sampler.name for sampler in SAMPLERS.values()))
def test_the_image_has_a_gradient_in_the_unets_weights(sampler: str) -> None:
    components = models.sd2()
    components.unet.double()
    components.vae.double()
    weight: Tensor = components.unet.conv_in.weight
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).double()
    direction /= direction.norm()
    renderer = Renderer(components, "cpu")

    def mean_image() -> Tensor:
        ((_, images),) = renderer.render([probe(sampler=sampler, steps=2, cfg_scale=3)])
        return images.double().mean()

    (gradient,) = torch.autograd.grad(mean_image(), weight)
    slope = float((gradient * direction).sum())
    step = 1e-3  # larger ones move pixels across the clamp at 0 and 1
    with torch.no_grad():
        weight += step * direction
        above = mean_image().item()
        weight -= 2 * step * direction
        below = mean_image().item()
    assert slope != 0
    assert slope == pytest.approx((above - below) / (2 * step), rel=0.1, abs=2e-5)


def test_texts_encoded_in_inference_mode_still_serve_a_gradient() -> None:
    components = models.sd1()
    renderer = Renderer(components, "cpu")
    with torch.inference_mode():
        list(renderer.render([probe(steps=1)]))
    ((_, images),) = renderer.render([probe(steps=1)])
    images.mean().backward()
    assert components.unet.conv_in.weight.grad is not None


def test_a_scheduler_is_fresh_for_every_batch() -> None:
    renderer = Renderer(model("sd1"), "cpu")
    with torch.no_grad():
        ((_, first),) = renderer.render([probe()])
        ((_, again),) = renderer.render([probe()])
    assert torch.equal(first, again)


@pytest.mark.parametrize("sampler", ["Euler", "DDIM", "UniPC", "DPM++ 2M Karras"])
def test_a_model_of_zero_terminal_snr_can_be_rendered(sampler: str) -> None:
    components = models.sd2()
    components.scheduler_config = {**models.SCHEDULER, "rescale_betas_zero_snr": True}
    image = rendered(components, [probe(sampler=sampler)])
    assert image.isfinite().all()
    assert difference(image, rendered(models.sd2(), [probe(sampler=sampler)])) > TOLERANCE


def test_wrong_components_are_refused() -> None:
    good = models.sd1()
    good.scheduler_config = {"beta_start": 0.1}
    with pytest.raises(InputError, match="lacks beta_end, beta_schedule"):
        Renderer(good, "cpu")
    parts = (good.unet, good.vae, good.text_encoder, good.tokenizer)
    with pytest.raises(InputError, match="unknown prediction type 'sample'"):
        Components(*parts, "sample", models.SCHEDULER)  # type: ignore[arg-type]
    good.unet.register_to_config(addition_embed_type="text_time")
    with pytest.raises(InputError, match="SDXL"):
        Components(*parts, "epsilon", models.SCHEDULER)


def test_what_cannot_be_rendered_is_refused_before_the_first_image() -> None:
    renderer = Renderer(model("sd1"), "cpu")
    for wrong, said in [
        (
            probe(prompt="a cat <lora:hat:0.8>"),
            "prompt 'a cat <lora:hat:0.8>' wants <lora:hat:0.8>, which can't be used; take it out",
        ),
        (probe(negative_prompt=f"(dog:{'9' * 400})"), "has weights that leave no finite number"),
        (probe(clip_skip=4), "clip_skip 4: the text encoder has 3 layers; take 1 to 3"),
    ]:
        with pytest.raises(InputError) as caught:
            renderer.render([probe(), wrong])
        assert said in str(caught.value)
    with pytest.raises(InputError, match="max_batch 0"):
        Renderer(model("sd1"), "cpu", max_batch=0)


@pytest.mark.parametrize(
    ("dtype", "remedy"), [(torch.float32, "its weights are broken"), (torch.bfloat16, "run it in float32")]
)
def test_a_unet_that_makes_nan_fails_the_trial_and_is_named(dtype: torch.dtype, remedy: str) -> None:
    components = models.sd1()
    components.unet.to(dtype)
    with torch.no_grad():
        components.unet.conv_out.bias.fill_(float("nan"))
    said = rf"the merged UNet made NaN of the latents of probe 0 \('a cat', seed 1\); {remedy}"
    with pytest.raises(TrialFailed, match=said):
        rendered(components, [probe()])


def with_large_activations() -> Components:
    """A VAE that is sound in float32 and beyond the largest float16: the normalisation takes it back."""
    components = models.sd1()
    with torch.no_grad():
        components.vae.post_quant_conv.weight *= 3e4
        components.vae.decoder.conv_in.weight *= 3e4
    return components


def test_a_vae_that_overflows_in_half_precision_goes_on_in_float32() -> None:
    probes = [probe(seed=seed) for seed in range(3)]
    sound = with_large_activations()
    sound.vae.half().float()
    expected = rendered(sound, probes, max_batch=2)
    components = with_large_activations()
    components.vae.half()
    calls: list[torch.dtype] = []
    components.vae.decoder.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].dtype))
    renderer = Renderer(components, "cpu", 2)
    with torch.no_grad():
        images = torch.cat([images for _, images in renderer.render(probes)])
    assert torch.equal(images, expected)
    assert calls == [torch.float16, torch.float32, torch.float32]
    assert renderer.notices == [
        "the VAE made NaN of probe 0 ('a cat', seed 0) in float16; from now on it runs in float32"
    ]


def test_a_vae_that_makes_nan_in_float32_fails_the_trial_and_is_named() -> None:
    components = models.sd1()
    with torch.no_grad():
        components.vae.decoder.conv_out.bias.fill_(float("inf"))
    said = r"the VAE made NaN of the finite latents of probe 0 \('a cat', seed 1\), in float32"
    for vae in (components.vae, components.vae.half()):
        components.vae = vae
        with pytest.raises(TrialFailed, match=said):
            rendered(components, [probe()])


def test_check_images_names_the_bad_one() -> None:
    good = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    check_images(torch.stack([good, good]), ["a", "b"])
    for bad, said in [
        (torch.zeros(3, 8, 8), "b is black"),
        (torch.tensor([1.0, 0.5, 0.0]).view(3, 1, 1).expand(3, 8, 8), "b is one colour"),
    ]:
        with pytest.raises(TrialFailed, match=said):
            check_images(torch.stack([good, bad]), ["a", "b"])


def test_a_merge_that_renders_one_colour_fails_the_trial() -> None:
    components = models.sd1()
    with torch.no_grad():
        components.vae.decoder.conv_out.weight.zero_()
        components.vae.decoder.conv_out.bias.fill_(-5.0)
    with pytest.raises(TrialFailed, match=r"the image of probe 0 \('a cat', seed 1\) is black"):
        rendered(components, [probe()])


def test_images_are_rounded_to_8_bits() -> None:
    (image,) = to_pil(torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 4))
    assert image.size == (4, 2)
    assert image.getpixel((0, 0)) == (0, 128, 255)
