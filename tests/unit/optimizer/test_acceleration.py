"""A UNet that lies channels last or is compiled, and is merged in place all the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch._dynamo.utils import counters

from optimizer.blocks import BLOCKS, BlockWeights
from optimizer.checkpoints import build_unet
from optimizer.merging import LiveMerge
from scoring.errors import InputError
from scoring.rendering.acceleration import accelerate
from tests.unit.optimizer.checkpoint_files import write_random

CPU = torch.device("cpu")
Pair = tuple[Path, Path]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    return write_random(folder / "a.safetensors", 1, torch.float32), write_random(
        folder / "b.safetensors", 2, torch.float32
    )


def live(pair: Pair, *, channels_last: bool = False) -> tuple[LiveMerge, Any]:
    unet: Any = build_unet("emoji").to_empty(device="cpu")
    if channels_last:
        unet.to(memory_format=torch.channels_last)
    return LiveMerge(*pair, unet, architecture="emoji", device="cpu", dtype=torch.float32), unet.eval()


def weights(seed: int) -> BlockWeights:
    return {block: (7 * index + seed) % 27 / 26 for index, block in enumerate(BLOCKS)}


@torch.no_grad()
def predicted(unet: Any, rows: int = 2, side: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    latents = torch.randn(rows, 4, side, side, generator=generator)
    width = int(unet.config.cross_attention_dim)
    text = torch.randn(rows, 77, width, generator=generator)
    found: Tensor = unet(latents, torch.tensor(500), encoder_hidden_states=text).sample
    return found


def differing(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def test_weights_that_lie_channels_last_stay_so_and_are_merged_the_same(pair: Pair) -> None:
    merge, unet = live(pair)
    last_merge, last = live(pair, channels_last=True)
    outputs: list[Tensor] = []
    last.conv_in.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    for seed in (3, 5):
        merge.apply(weights(seed))
        last_merge.apply(weights(seed))
        for (name, one), other in zip(unet.named_parameters(), last.parameters(), strict=True):
            assert torch.equal(one, other), name
            assert one.is_contiguous()
            if one.dim() == 4:
                assert other.is_contiguous(memory_format=torch.channels_last), name
        assert differing(predicted(last), predicted(unet)) <= 1e-5
    # Activations follow the weights though the input does not lie channels last.
    assert outputs[0].is_contiguous(memory_format=torch.channels_last)
    assert not outputs[0].is_contiguous()


def test_a_cpu_keeps_the_weights_as_they_lie() -> None:
    unet, vae = nn.Conv2d(4, 8, 3), nn.Conv2d(3, 8, 3)
    accelerate(unet, vae, CPU)
    assert unet.weight.is_contiguous()
    assert vae.weight.is_contiguous()


def test_cuda_lays_them_channels_last() -> None:
    unet, vae = nn.Conv2d(4, 8, 3), nn.Conv2d(3, 8, 3)
    before = unet.weight.detach().clone()
    accelerate(unet, vae, torch.device("cuda"))  # moves nothing: where the weights are is another's to say
    assert unet.weight.is_contiguous(memory_format=torch.channels_last)
    assert vae.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(unet.weight, before)


def test_a_machine_without_a_compiler_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(InputError, match=r"needs a C\+\+ compiler.*install g\+\+ or turn compile off"):
        accelerate(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), CPU, compile=True)
    accelerate(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), CPU)


def small_unet() -> UNet2DConditionModel:
    torch.manual_seed(1)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        cross_attention_dim=16,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    ).eval()


def made() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.slow
def test_weights_may_change_in_place_and_any_batch_is_compiled_twice_at_most() -> None:
    plain, unet = small_unet(), small_unet()
    counters.clear()
    accelerate(unet, nn.Identity(), CPU, compile=True, backend="aot_eager")
    assert made() == 0
    graphs = []
    for change, rows in enumerate((4, 4, 6, 10, 12, 4)):
        with torch.no_grad():
            for one, other in zip(plain.parameters(), unet.parameters(), strict=True):
                one.mul_(1 + 0.1 * change)
                other.mul_(1 + 0.1 * change)
        assert differing(predicted(unet, rows), predicted(plain, rows)) <= 1e-5
        graphs.append(made())
    assert graphs == [1, 1, 2, 2, 2, 2]


@pytest.mark.slow
def test_a_merge_is_seen_by_the_compiled_unet_and_nothing_is_compiled_again(pair: Pair) -> None:
    reference, plain = live(pair)
    unet: Any = build_unet("emoji").to_empty(device="cpu").eval()
    accelerate(unet, nn.Identity(), CPU, compile=True, backend="aot_eager")
    merge = LiveMerge(*pair, unet, architecture="emoji", device="cpu", dtype=torch.float32)
    counters.clear()
    found = []
    for seed in (1, 2, 3):
        merge.apply(weights(seed))
        reference.apply(weights(seed))
        found.append(predicted(unet))
        assert differing(found[-1], predicted(plain)) <= 1e-4
        assert made() == 1
    assert differing(found[1], found[0]) > 1e-2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_the_code_that_inductor_makes_sees_weights_that_change_in_place() -> None:
    plain, unet = small_unet(), small_unet()
    counters.clear()
    accelerate(unet, nn.Identity(), CPU, compile=True)
    for change in (0, 1, 2):
        with torch.no_grad():
            for one, other in zip(plain.parameters(), unet.parameters(), strict=True):
                one.mul_(1 + 0.1 * change)
                other.mul_(1 + 0.1 * change)
        assert differing(predicted(unet), predicted(plain)) <= 1e-4
        assert made() == 1
