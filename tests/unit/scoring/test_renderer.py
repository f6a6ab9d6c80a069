from __future__ import annotations

import warnings
from collections.abc import Iterator
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
from scoring.rendering.samplers import SAMPLERS, make_scheduler

TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def _one_quiet_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers on configs without steps_offset
        yield
    torch.set_num_threads(threads)


@cache
def model(name: str) -> Components:
    built: Components = getattr(models, name)()
    return built


def probe(**fields: Any) -> Probe:
    return Probe(**{"prompt": "a cat", "seed": 1, "steps": 3, "width": 32, "height": 32, **fields})


def rendered(components: Components, probes: list[Probe], **options: Any) -> Tensor:
    images: dict[int, Tensor] = {}
    with torch.no_grad():
        for indices, batch in Renderer(components, "cpu", **options).render(probes):
            images.update(zip(indices, batch, strict=True))
    return torch.stack([images[i] for i in range(len(probes))])


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize("name", ["sd1", "sd2"])
@pytest.mark.parametrize("sampler", SAMPLERS)
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
        probe(sampler="Euler"),
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


@pytest.mark.parametrize("sampler", SAMPLERS)
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


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_every_sampler_knows_how_the_model_was_trained(sampler: str, prediction: Any) -> None:
    components = models.sd1()
    components.prediction_type = prediction
    config = make_scheduler(sampler, components).config
    assert config.prediction_type == prediction
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert not config.get("clip_sample", False)
    assert bool(config.get("use_karras_sigmas")) is sampler.endswith("Karras")


def test_zero_terminal_snr_is_followed_or_refused() -> None:
    components = models.sd2()
    components.scheduler_config = {**models.SCHEDULER, "rescale_betas_zero_snr": True}
    assert make_scheduler("Euler", components).config.rescale_betas_zero_snr
    with pytest.raises(InputError, match="sampler 'Heun' can't render a model trained to zero terminal SNR"):
        make_scheduler("Heun", components)


def test_wrong_components_are_refused() -> None:
    good = models.sd1()
    good.scheduler_config = {"beta_start": 0.1}
    with pytest.raises(InputError, match="lacks beta_end, beta_schedule"):
        make_scheduler("Euler", good)
    with pytest.raises(InputError, match="unknown sampler 'Eulr'"):
        make_scheduler("Eulr", good)
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
            probe(prompt="cat " * 80),
            "has 80 tokens, 75 fit; shorten it, this would be cut: 'cat cat cat cat cat",
        ),
        (probe(negative_prompt="cat " * 76), "has 76 tokens"),
        (probe(clip_skip=4), "clip_skip 4: the text encoder has 3 layers; take 1 to 3"),
    ]:
        with pytest.raises(InputError) as caught:
            renderer.render([probe(), wrong])
        assert said in str(caught.value)
    with pytest.raises(InputError, match="max_batch 0"):
        Renderer(model("sd1"), "cpu", max_batch=0)


def test_a_prompt_of_exactly_75_tokens_fits() -> None:
    assert len(rendered(model("sd1"), [probe(prompt="cat " * 75, steps=1)])) == 1


def test_a_broken_model_fails_the_trial() -> None:
    components = models.sd1()
    with torch.no_grad():
        components.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(TrialFailed, match=r"probe 0 \('a cat', seed 1\) is NaN"):
        rendered(components, [probe()])


def test_check_images_names_the_bad_one() -> None:
    good = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    check_images(torch.stack([good, good]), ["a", "b"])
    for bad, said in [
        (torch.full((3, 8, 8), float("nan")), "b is NaN"),
        (torch.zeros(3, 8, 8), "b is black"),
        (torch.tensor([1.0, 0.5, 0.0]).view(3, 1, 1).expand(3, 8, 8), "b is one colour"),
    ]:
        with pytest.raises(TrialFailed, match=said):
            check_images(torch.stack([good, bad]), ["a", "b"])


def test_images_are_rounded_to_8_bits() -> None:
    (image,) = to_pil(torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 4))
    assert image.size == (4, 2)
    assert image.getpixel((0, 0)) == (0, 128, 255)
