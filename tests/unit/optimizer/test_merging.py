"""LiveMerge against float64, to the bit at its ends, without growth; and the exported file."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from optimizer.blocks import BLOCKS, BlockWeights, block_of, uniform
from optimizer.checkpoints import build_unet, expected_tensors, load_unet, unet_names
from optimizer.merging import LiveMerge, export_merge
from scoring.errors import InputError, TrialFailed
from tests.unit.optimizer.checkpoint_files import random_tensors, write_random

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
Pair = tuple[Path, Path]


def write_pair(folder: Path, dtype: torch.dtype) -> Pair:
    # Signed zeros, because a lerp at 0 or 1 would lose their sign.
    key = "model.diffusion_model.input_blocks.3.0.op.weight"
    zeros = torch.zeros_like(random_tensors(1, dtype)[key])
    return (
        write_random(folder / "a.safetensors", 1, dtype, changes={key: -zeros}),
        write_random(folder / "b.safetensors", 2, dtype, changes={key: zeros}),
    )


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def typed_pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[torch.dtype, Pair]:
    return request.param, write_pair(tmp_path_factory.mktemp("pair"), request.param)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"), torch.float32)


def live(pair: Pair, dtype: torch.dtype = torch.float32) -> tuple[LiveMerge, torch.nn.Module]:
    unet = build_unet("emoji").to_empty(device="cpu").to(dtype)
    return LiveMerge(*pair, unet, architecture="emoji", device="cpu", dtype=dtype), unet


def ldm_tensors(unet: torch.nn.Module) -> dict[str, Tensor]:
    names = unet_names(unet)
    return {names[name]: tensor for name, tensor in unet.state_dict().items()}


def different_weights() -> BlockWeights:
    return {block: (7 * index % 27) / 26 for index, block in enumerate(BLOCKS)}


def assert_close_to_float64(merged: Tensor, a: Tensor, b: Tensor, alpha: float) -> None:
    """Rounded once from a sum in fp32: half a unit of the dtype, and fp32's own error."""
    a, b = a.double(), b.double()
    reference = a + alpha * (b - a)
    unit = torch.finfo(merged.dtype).eps * reference.abs() + torch.finfo(merged.dtype).smallest_normal
    accumulation = 4 * torch.finfo(torch.float32).eps * torch.maximum(a.abs(), b.abs())
    assert bool(((merged.double() - reference).abs() <= unit / 2 + accumulation).all())


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def test_every_tensor_equals_the_float64_merge(typed_pair: tuple[torch.dtype, Pair]) -> None:
    dtype, pair = typed_pair
    merge, unet = live(pair, dtype)
    weights = different_weights()
    merge.apply(weights)
    a, b = load_file(pair[0]), load_file(pair[1])
    merged = ldm_tensors(unet)
    assert merged.keys() == expected_tensors("emoji").unet.keys()
    for key, tensor in merged.items():
        assert_close_to_float64(tensor, a[key], b[key], weights[str(block_of(key))])


def test_alpha_0_is_a_and_alpha_1_is_b_to_the_bit(typed_pair: tuple[torch.dtype, Pair]) -> None:
    dtype, pair = typed_pair
    merge, unet = live(pair, dtype)
    for alpha, path in ((0.0, pair[0]), (1.0, pair[1])):
        merge.apply(uniform(BLOCKS, 0.3))
        merge.apply(uniform(BLOCKS, alpha))
        file = load_file(path)
        for key, tensor in ldm_tensors(unet).items():
            assert same_bits(tensor, file[key]), key


def test_at_first_it_is_a_and_only_changed_blocks_are_touched(pair: Pair) -> None:
    merge, unet = live(pair)
    assert merge.blocks == BLOCKS
    assert merge.apply(uniform(BLOCKS, 0.0)) == []
    assert merge.apply({**uniform(BLOCKS, 0.0), "OUT": 0.5, "IN04": 1.0}) == ["IN04", "OUT"]
    assert merge.apply({**uniform(BLOCKS, 0.0), "OUT": 0.5, "IN04": 1.0}) == []
    a = load_file(pair[0])
    changed = {block_of(key) for key, tensor in ldm_tensors(unet).items() if not torch.equal(tensor, a[key])}
    assert changed == {"IN04", "OUT"}


def test_the_order_of_applications_leaves_no_trace(pair: Pair) -> None:
    (first, unet_1), (second, unet_2) = live(pair), live(pair)
    first.apply(different_weights())
    for alpha in (0.9, 0.1, 1.0, 0.7):
        second.apply(uniform(BLOCKS, alpha))
    second.apply(different_weights())
    other = ldm_tensors(unet_2)
    assert all(torch.equal(tensor, other[key]) for key, tensor in ldm_tensors(unet_1).items())


def test_blocks_in_which_a_and_b_are_the_same_are_no_dimension(tmp_path: Path, pair: Pair) -> None:
    a = load_file(pair[0])
    same = {key: a[key] for key in expected_tensors("emoji").unet if block_of(key) != "M00"}
    twin = write_random(tmp_path / "twin.safetensors", 2, changes=same)
    merge, unet = live((pair[0], twin))
    assert merge.blocks == ("M00",)
    assert merge.apply({"M00": 0.5}) == ["M00"]
    assert merge.apply(uniform(BLOCKS, 1.0)) == ["M00"]
    b = load_file(twin)
    assert all(torch.equal(tensor, b[key]) for key, tensor in ldm_tensors(unet).items())
    export_merge(pair[0], twin, {"M00": 1.0}, tmp_path / "out.safetensors", metadata={}, dtype=torch.float32)
    out = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(out[key], b[key]) for key in expected_tensors("emoji").unet)


def beyond_half(folder: Path, *, moving: str | None) -> Pair:
    """B differs from A by less than float16 holds in IN04 and OUT05 (zeros by sign), by more in `moving`."""
    a = random_tensors(1)
    changes: dict[str, Tensor | None] = {}
    for key in expected_tensors("emoji").unet:
        if block_of(key) == moving:
            changes[key] = random_tensors(2)[key]
        elif block_of(key) in ("IN04", "OUT05"):
            changes[key] = a[key].half().float()
    tiny = next(key for key in changes if block_of(key) == "OUT05")
    changes[tiny] = torch.full_like(a[tiny], -1e-9)
    path_a = write_random(folder / "a.safetensors", 1, changes={tiny: torch.full_like(a[tiny], 1e-9)})
    same = {key: a[key] for key in expected_tensors("emoji").unet if key not in changes}
    return path_a, write_random(folder / "b.safetensors", 2, changes={**same, **changes})


def test_a_block_that_differs_by_less_than_the_dtype_can_hold_is_no_dimension(tmp_path: Path) -> None:
    pair = beyond_half(tmp_path, moving="M00")
    half, _ = live(pair, torch.float16)
    assert (half.blocks, half.held) == (("M00",), ("IN04", "OUT05"))
    full, _ = live(pair)
    assert (full.blocks, full.held) == (("IN04", "M00", "OUT05"), ())


def test_a_pair_in_which_no_block_moves_is_refused(tmp_path: Path) -> None:
    pair = beyond_half(tmp_path, moving=None)
    assert live(pair)[0].blocks == ("IN04", "OUT05")
    said = r"a\.safetensors and b\.safetensors have the same UNet in float16.*run them in float32"
    with pytest.raises(InputError, match=said):
        live(pair, torch.float16)
    unet = {key: random_tensors(1)[key] for key in expected_tensors("emoji").unet}
    vae_differs = write_random(tmp_path / "c.safetensors", 2, changes=unet)
    with pytest.raises(InputError, match=r"the same UNet in float32.*choose another model"):
        live((write_random(tmp_path / "a.safetensors", 1), vae_differs))


def test_moves_is_whether_a_number_of_the_unet_would_change(tmp_path: Path) -> None:
    merge, unet = live(beyond_half(tmp_path, moving="M00"), torch.float16)
    merge.apply({"M00": 0.5})
    for weights, moves in (
        ({"M00": 0.5}, False),
        ({"M00": 0.5 + 1e-12}, False),
        ({"M00": 0.5, "IN04": 1.0, "IN00": 1.0}, False),
        ({"M00": 0.51}, True),
    ):
        assert merge.moves(weights) is moves
        before = {key: tensor.clone() for key, tensor in ldm_tensors(unet).items()}
        merge.apply(weights)
        assert any(not torch.equal(tensor, before[key]) for key, tensor in ldm_tensors(unet).items()) is moves


def test_a_difference_at_the_end_of_a_block_is_found(tmp_path: Path) -> None:
    a = random_tensors(1)
    last = next(key for key in reversed(expected_tensors("emoji").unet) if block_of(key) == "M00")
    other = {last: torch.cat([a[last].flatten()[:-1], a[last].flatten()[-1:] + 1]).view_as(a[last])}
    pair = (
        write_random(tmp_path / "a.safetensors", 1),
        write_random(tmp_path / "b.safetensors", 1, changes=other),
    )
    merge, _ = live(pair)
    assert merge.blocks == ("M00",)
    assert merge.moves({"M00": 0.5})


@pytest.mark.parametrize("replace", ["cast", "load"])
def test_a_unet_whose_parameters_were_replaced_is_noticed(pair: Pair, replace: str) -> None:
    merge, unet = live(pair)
    merge.apply(uniform(BLOCKS, 0.5))
    if replace == "cast":
        unet.half().float()
    else:
        copies = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
        unet.load_state_dict(copies, assign=True)
    with pytest.raises(TrialFailed, match=r"would change nothing that renders"):
        merge.apply(uniform(BLOCKS, 0.6))


def test_parameters_are_views_of_one_flat_buffer_and_take_gradients(pair: Pair) -> None:
    merge, unet = live(pair)
    assert len({parameter.untyped_storage().data_ptr() for parameter in unet.parameters()}) == 1
    unet.requires_grad_(True)
    merge.apply(uniform(BLOCKS, 0.5))
    unet(torch.randn(1, 4, 8, 8), 10, torch.randn(1, 77, 64)).sample.square().sum().backward()
    assert all(parameter.grad is not None for parameter in unet.parameters())
    assert merge.apply(uniform(BLOCKS, 0.6)) == list(BLOCKS)


def test_200_applications_do_not_grow_the_process(pair: Pair) -> None:
    merge, _ = live(pair)
    for step in range(20):
        merge.apply(uniform(BLOCKS, (step % 9) / 8))
    before = resident_bytes()
    for step in range(200):
        merge.apply(uniform(BLOCKS, (step % 9) / 8))
    # One UNet has 22 MB: a copy kept from any application would show.
    assert resident_bytes() - before < 2_000_000


def resident_bytes() -> int:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, check=True)
    return int(shown.stdout) * 1024


@pytest.mark.parametrize(
    ("change", "message"),
    [({"M00": 1.5}, "block M00 is 1.5"), ({"BASE": 0.5}, "unknown block 'BASE'")],
)
def test_wrong_weights_are_refused_and_change_nothing(
    pair: Pair, tmp_path: Path, change: BlockWeights, message: str
) -> None:
    merge, _ = live(pair)
    weights = {**uniform(BLOCKS, 0.5), **change}
    with pytest.raises(InputError, match=message):
        merge.apply(weights)
    assert merge.apply(uniform(BLOCKS, 0.0)) == []
    with pytest.raises(InputError, match=message):
        export_merge(*pair, weights, tmp_path / "out.safetensors", metadata={})


def test_a_weight_missing_for_a_block_that_differs_is_refused(pair: Pair, tmp_path: Path) -> None:
    weights = {block: 0.5 for block in BLOCKS if block != "OUT05"}
    merge, _ = live(pair)
    with pytest.raises(InputError, match="no weight for block OUT05"):
        merge.apply(weights)
    with pytest.raises(InputError, match="no weight for block OUT05"):
        export_merge(*pair, weights, tmp_path / "out.safetensors", metadata={})
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_lacks_a_unet_tensor_is_refused(pair: Pair, tmp_path: Path) -> None:
    key = "model.diffusion_model.out.2.bias"
    broken = write_random(tmp_path / "broken.safetensors", 2, changes={key: None})
    with pytest.raises(InputError, match=rf"broken\.safetensors lacks {key}"):
        live((pair[0], broken))


def test_the_exported_file_is_the_live_unet(typed_pair: tuple[torch.dtype, Pair], tmp_path: Path) -> None:
    dtype, pair = typed_pair
    merge, unet = live(pair, dtype)
    merge.apply(different_weights())
    out = tmp_path / "out.safetensors"
    export_merge(*pair, different_weights(), out, metadata={"sd_merge_recipe": "{}"}, dtype=dtype)
    exported = load_unet(out, device="cpu", dtype=dtype)
    for name, parameter in unet.named_parameters():
        assert torch.equal(parameter, exported.get_parameter(name)), name
    inputs = torch.randn(2, 4, 8, 8), 500, torch.randn(2, 77, 64)
    with torch.no_grad():
        # Not to the bit: on some CPUs the order of a convolution's sums hangs on where its weights lie.
        torch.testing.assert_close(unet.float()(*inputs).sample, exported.float()(*inputs).sample)


def test_the_exported_file_holds_the_rest_of_a_in_half_precision_without_ema(tmp_path: Path) -> None:
    rest = {
        "betas": torch.linspace(0.1, 0.2, 10, dtype=torch.float64),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "model_ema.decay": torch.tensor(0.99),
    }
    a = write_random(tmp_path / "a.safetensors", 1, changes=rest)
    b = write_random(tmp_path / "b.safetensors", 2, torch.float16)
    out = tmp_path / "out.safetensors"
    export_merge(a, b, different_weights(), out, metadata={"sd_merge_recipe": "{}"})
    written, in_a, in_b = load_file(out), load_file(a), load_file(b)
    assert written.keys() == in_a.keys() - {"model_ema.decay"}
    unet = expected_tensors("emoji").unet
    for key, tensor in written.items():
        if key in unet:
            assert_close_to_float64(tensor, in_a[key], in_b[key], different_weights()[str(block_of(key))])
        elif key in rest:
            assert torch.equal(tensor, rest[key])
        else:
            assert torch.equal(tensor, in_a[key].half())
    with safe_open(out, "pt") as file:
        assert file.metadata() == {"sd_merge_recipe": "{}"}
