"""Images too large to be decoded at once: tiles, against the same VAE's whole decode."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load
from torch import Tensor, nn

from scoring.errors import TrialFailed
from scoring.rendering.components import Components
from scoring.rendering.decoder import Decoder, tile_sizes
from scoring.rendering.memory import Memory
from tests.unit.scoring import models

ZOO = Path(__file__).parents[3] / "examples/emoji/weights/vae.safetensors.xz"
NAMES = ["the image"]


def decoder(components: Components) -> tuple[Decoder, list[str]]:
    notices: list[str] = []
    return Decoder(components, Memory(torch.device("cpu"), notices.append), notices.append), notices


def hold_at_most(components: Components, latents: int) -> list[tuple[int, ...]]:
    """Make the VAE run out of memory above so many latents at once; grows by the shapes that were tried."""
    tried: list[tuple[int, ...]] = []

    def hook(_module: object, inputs: tuple[Tensor, ...]) -> None:
        tried.append(tuple(inputs[0].shape))
        if inputs[0][:, 0].numel() > latents:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    components.vae.decoder.register_forward_pre_hook(hook)
    return tried


def drawing() -> Tensor:
    """Shapes with hard edges, (1, 3, 256, 256) in [-1, 1]."""
    image = Image.new("RGB", (512, 512), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((30, 40, 300, 310), fill="orange")
    draw.rectangle((200, 250, 480, 470), fill="navy")
    draw.line((0, 511, 511, 0), fill="green", width=9)
    pixels = np.array(image.resize((256, 256), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels).float().permute(2, 0, 1)[None] / 127.5 - 1


def zoo() -> Components:
    components = models.emoji()
    tensors = load(lzma.decompress(ZOO.read_bytes()))
    components.vae.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    return components


def without_what_looks_everywhere(components: Components) -> Components:
    """A VAE whose pixels depend on the latents near them alone: no attention, no normalisation."""
    decoder = components.vae.decoder
    unattended: list[Any] = [None]
    decoder.mid_block.attentions = nn.ModuleList(unattended)
    for module in list(decoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    return components


@torch.no_grad()
def test_tiles_are_the_whole_image_where_they_do_not_end() -> None:
    components = without_what_looks_everywhere(models.sd1())
    latents = torch.randn(1, 4, 64, 40, generator=torch.Generator().manual_seed(1))
    whole, notices = decoder(components)
    expected = whole.decode(latents, NAMES)
    assert notices == []
    tried = hold_at_most(components, 32 * 32)
    tiled, notices = decoder(components)
    difference = (tiled.decode(latents, NAMES) - expected).abs()
    assert tried[0][2:] == (64, 40)
    assert set(tried[1:]) <= {(1, 4, height, width) for height in (16, 32) for width in (16, 32)}
    # A tile of 32 latents begins every 24; 14 are as far as an edge reaches in this decoder.
    for top in (0, 24):
        inner = difference[..., 8 * (top and top + 14) : 8 * (top + 18), : 8 * 18]
        assert inner.numel() > 0
        assert float(inner.max()) <= 1e-5
    assert len(notices) == 1
    assert (
        "320x512 does not fit the memory to decode; from now on it is decoded in tiles of 256 p" in notices[0]
    )


@torch.no_grad()
def test_the_zoos_vae_in_tiles_is_nearly_its_whole_and_has_no_seams() -> None:
    components = zoo()
    latents = components.vae.encode(drawing()).latent_dist.mean * components.vae.config.scaling_factor
    expected = decoder(components)[0].decode(latents, NAMES)
    hold_at_most(components, 32 * 32)
    difference = decoder(components)[0].decode(latents, NAMES) - expected
    # This VAE was trained on images of one tile's size or less, so it normalises a tile unlike the whole.
    assert 0 < float(difference.abs().mean()) <= 0.06
    jumps = (difference[..., 1:] - difference[..., :-1]).abs().mean(dim=(0, 1, 2))
    seams = [jumps[column - 1] for column in (96, 192)]
    assert max(seams) <= 1.5 * float(jumps.mean())


@torch.no_grad()
def test_a_tile_that_does_not_fit_is_halved_and_what_fits_is_kept() -> None:
    components = models.sd1()
    tried = hold_at_most(components, 16 * 16)
    tiled, notices = decoder(components)
    latents = torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    first = tiled.decode(latents, ["one", "another"])
    assert first.shape == (2, 3, 512, 512)
    assert [notice.partition("tiles of ")[2][:3] for notice in notices if "tiles" in notice] == ["256", "128"]
    assert [shape[-1] for shape in tried[:4]] == [64, 64, 32, 16]
    tried.clear()
    assert torch.equal(tiled.decode(latents[:1], ["one"]), first[:1])
    assert max(shape[-1] for shape in tried) == 16
    smaller = tiled.decode(latents[..., :8, :8], ["one", "another"])
    assert tried[-1] == (2, 4, 8, 8)
    assert smaller.shape == (2, 3, 64, 64)


@torch.no_grad()
def test_an_image_of_which_no_tile_fits_fails_the_trial() -> None:
    components = models.sd1()
    tried = hold_at_most(components, 100)
    with pytest.raises(TrialFailed, match=r"the image does not fit, alone, at 512x512"):
        decoder(components)[0].decode(torch.zeros(1, 4, 64, 64), NAMES)
    assert [shape[-1] for shape in tried] == [64, 32, 16]


def test_tiles_become_smaller_and_their_overlap_is_whole() -> None:
    for height, width in ((128, 72), (64, 64), (127, 31), (20, 20), (16, 16), (4, 4)):
        sizes = list(tile_sizes(height, width))
        assert sizes == sorted(set(sizes), reverse=True)
        assert all(16 <= size < max(height, width) and size % 4 == 0 for size in sizes)
    assert list(tile_sizes(128, 72)) == [64, 32, 16]
    assert list(tile_sizes(16, 16)) == []
