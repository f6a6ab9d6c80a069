"""Names and orders of the blocks, and the block of a tensor."""

from __future__ import annotations

import math

import pytest

from optimizer.blocks import BLOCKS, ORDERS, SDXL_BLOCKS, block_of, check_weights, uniform
from scoring.errors import InputError


def test_there_are_27_blocks_and_22_in_sdxl() -> None:
    assert len(BLOCKS) == len(set(BLOCKS)) == 27
    assert len(SDXL_BLOCKS) == len(set(SDXL_BLOCKS)) == 22
    assert set(SDXL_BLOCKS) - set(BLOCKS) == {"LABEL_EMB"}


def test_the_three_orders_hold_the_same_blocks_and_differ_where_the_field_differs() -> None:
    for order in ORDERS.values():
        assert set(order) == set(BLOCKS)
        assert len(order) == 27
        assert order[:13] == (*(f"IN{i:02d}" for i in range(12)), "M00")
    assert (ORDERS["nat"][13], ORDERS["nat"][26]) == ("OUT", "TIME_EMBED")
    assert ORDERS["recipe"][25:] == ("OUT", "TIME_EMBED")
    assert ORDERS["runtime"][25:] == ("TIME_EMBED", "OUT")


@pytest.mark.parametrize(
    ("key", "block"),
    [
        ("model.diffusion_model.input_blocks.1.0.in_layers.0.weight", "IN01"),
        ("model.diffusion_model.input_blocks.11.0.in_layers.0.weight", "IN11"),
        ("model.diffusion_model.middle_block.1.proj_in.weight", "M00"),
        ("model.diffusion_model.output_blocks.2.1.conv.weight", "OUT02"),
        ("model.diffusion_model.out.0.weight", "OUT"),
        ("model.diffusion_model.time_embed.2.bias", "TIME_EMBED"),
        ("model.diffusion_model.label_emb.0.0.weight", "LABEL_EMB"),
        ("output_blocks.10.0.skip_connection.weight", "OUT10"),
        ("first_stage_model.encoder.conv_out.weight", None),
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", None),
        ("model_ema.diffusion_modelinput_blocks00weight", None),
        ("betas", None),
    ],
)
def test_block_of_a_tensor(key: str, block: str | None) -> None:
    assert block_of(key) == block


def test_uniform_weights_name_every_block() -> None:
    assert uniform(SDXL_BLOCKS, 0.25) == dict.fromkeys(SDXL_BLOCKS, 0.25)


def test_checked_weights_come_in_the_order_of_the_blocks() -> None:
    shuffled = dict.fromkeys(reversed(BLOCKS), 1)
    assert list(check_weights(shuffled, BLOCKS)) == list(BLOCKS)


@pytest.mark.parametrize("value", [1.5, -0.01, math.nan, math.inf, True, "0.5", None])
def test_a_weight_outside_0_to_1_is_refused_by_block_name(value: object) -> None:
    with pytest.raises(InputError, match="block M00"):
        check_weights({**uniform(BLOCKS, 0.5), "M00": value}, BLOCKS)  # type: ignore[dict-item]


def test_an_unknown_and_a_missing_block_are_named() -> None:
    with pytest.raises(InputError, match="unknown block 'BASE'"):
        check_weights({**uniform(BLOCKS, 0.5), "BASE": 0.5}, BLOCKS)
    with pytest.raises(InputError, match="no weight for block OUT03"):
        check_weights({name: 0.5 for name in BLOCKS if name != "OUT03"}, BLOCKS)
