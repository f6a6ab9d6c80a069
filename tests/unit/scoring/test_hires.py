from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import interpolate

import tests.unit.scoring.literal as literal
import tests.unit.scoring.models as models
from scoring.errors import InputError
from scoring.probes import Hires, read_probes
from scoring.rendering.components import Components
from scoring.rendering.hires import Size, enlarge, enlarged_size, final_latents
from scoring.rendering.renderer import Renderer
from scoring.rendering.upscalers import UPSCALERS
from tests.unit.scoring.whole import TOLERANCE, difference, image, probe, states


@pytest.mark.parametrize(
    ("hires", "enlarged", "latents"),
    [
        # the article's: 1024x576 enlarged by 1.5
        ({"scale": 1.5}, (1536, 864), (192, 108)),
        # what is no multiple of 8 loses the rest: 1024 * 1.3 = 1331.2, 576 * 1.3 = 748.8
        ({"scale": 1.3}, (1331, 748), (166, 93)),
        ({"resize_x": 2048}, (2048, 1152), (256, 144)),
        ({"resize_y": 768}, (1365, 768), (170, 96)),
        # both: covered, then cropped. Wider than the first pass: 2048 x 1152, 1152 - 1024 = 16 latents fall
        ({"resize_x": 2048, "resize_y": 1024}, (2048, 1152), (256, 128)),
        # and higher: 1820 x 1024, (1820 - 1024) // 8 = 99 of 227 latents fall
        ({"resize_x": 1024, "resize_y": 1024}, (1820, 1024), (128, 128)),
    ],
)
def test_how_large_the_second_pass_is(
    hires: dict[str, Any], enlarged: tuple[int, int], latents: tuple[int, int]
) -> None:
    first, wanted = Size(1024, 576), Hires(**hires)
    assert enlarged_size(first, wanted) == enlarged
    assert final_latents(first, wanted, 8) == latents
    grown = enlarge(torch.zeros(1, 4, 72, 128), first, wanted, 8)
    assert grown.shape == (1, 4, latents[1], latents[0])


def test_what_is_too_much_is_cropped_evenly_one_more_on_the_far_side() -> None:
    columns = torch.arange(5.0).expand(1, 1, 4, 5)
    first, wanted = Size(40, 32), Hires(resize_x=32, resize_y=32, upscaler="Latent (nearest)")
    assert enlarged_size(first, wanted) == (40, 32)
    assert enlarge(columns, first, wanted, 8)[0, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", UPSCALERS)
def test_every_latent_upscaler_is_torchs(name: str) -> None:
    latents = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(1))
    mode = next(m for m in ("nearest-exact", "nearest", "bicubic", "bilinear") if m in f"{name} bilinear")
    wanted = interpolate(latents, size=(12, 10), mode=mode, antialias="antialiased" in name)
    assert torch.equal(enlarge(latents, Size(40, 48), Hires(upscaler=name), 8), wanted)


def test_an_unknown_upscaler_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"unknown upscaler 'R-ESRGAN 4x\+'; known upscalers: Latent, "):
        read_probes({"prompt": "a", "seed": 1, "hires": {"upscaler": "R-ESRGAN 4x+"}}, "job")


@pytest.mark.parametrize("name", ["sd1", "sd2"])
@pytest.mark.parametrize("hires", [{"scale": 1.5}, {"steps": 5, "denoising_strength": 0.4, "cfg_scale": 3}])
def test_the_second_pass_is_a1111s(name: str, hires: dict[str, Any]) -> None:
    components: Components = getattr(models, name)()
    wanted = probe(height=48, hires=Hires(**hires))
    said = states(components)
    width, height = final_latents(Size(32, 48), Hires(**hires), 8)
    with torch.no_grad():
        first = literal.first_pass(components, wanted, said)
        second = literal.second_pass(components, wanted, first, said, width=width, height=height)
        by_hand = literal.decoded(components, second)
        without = literal.decoded(components, first)
    assert by_hand.shape == (3, 8 * height, 8 * width)
    assert difference(image(components, wanted), by_hand) <= TOLERANCE
    assert difference(image(components, probe(height=48)), without) <= TOLERANCE


def test_the_second_pass_may_say_something_else() -> None:
    components = models.sd1()
    wanted = probe(hires=Hires(prompt="a dog", negative_prompt="fog", scale=2))
    with torch.no_grad():
        first = literal.first_pass(components, wanted, states(components))
        said = states(components, "fog", "a dog")
        second = literal.second_pass(components, wanted, first, said, width=8, height=8)
        by_hand = literal.decoded(components, second)
    assert difference(image(components, wanted), by_hand) <= TOLERANCE


def test_no_denoising_strength_is_no_second_pass_but_a_larger_image() -> None:
    components = models.sd1()
    wanted = probe(hires=Hires(denoising_strength=0))
    with torch.no_grad():
        first = literal.first_pass(components, wanted, states(components))
        larger = literal.decoded(components, interpolate(first, scale_factor=2, mode="bilinear"))
    assert difference(image(components, wanted), larger) <= TOLERANCE


def test_the_second_pass_may_have_its_own_sampler() -> None:
    components = models.sd1()
    own = image(components, probe(hires=Hires(sampler="DPM++ 2M Karras")))
    same = image(components, probe(hires=Hires(sampler="Euler")))
    assert torch.equal(same, image(components, probe(hires=Hires())))
    assert difference(own, same) > TOLERANCE


def test_probes_with_and_without_a_second_pass_do_not_share_a_batch() -> None:
    components = models.sd1()
    probes = [probe(), probe(hires=Hires()), probe(seed=2, hires=Hires()), probe(hires=Hires(scale=1.5))]
    with torch.no_grad():
        batches = {
            tuple(indices): tuple(images.shape[-2:])
            for indices, images in Renderer(components, "cpu").render(probes)
        }
    assert batches == {(0,): (32, 32), (1, 2): (64, 64), (3,): (48, 48)}
