"""The blocks of a Stable Diffusion UNet: their names, their orders, and the block a tensor belongs to.

A block weight is carried by name everywhere; the three orders below exist for importers and exporters only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from scoring.errors import InputError

BlockWeights = dict[str, float]
"""Block name -> alpha in [0, 1]; merged = (1 - alpha) * A + alpha * B for every tensor of the block."""

UNET_PREFIX = "model.diffusion_model."
"""What UNet keys begin with in a single-file (LDM) checkpoint."""


def _numbered(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}{index:02d}" for index in range(count))


_INPUTS, _OUTPUTS = _numbered("IN", 12), _numbered("OUT", 12)

BLOCKS: tuple[str, ...] = (*_INPUTS, "M00", *_OUTPUTS, "TIME_EMBED", "OUT")
"""The 27 blocks of SD1.x, SD2.x and the emoji zoo."""

SDXL_BLOCKS: tuple[str, ...] = (*_INPUTS[:9], "M00", *_OUTPUTS[:9], "TIME_EMBED", "OUT", "LABEL_EMB")
"""The 22 blocks of SDXL: nine input and output blocks, and the embedding of size and crop."""

NAT_ORDER: tuple[str, ...] = (*_INPUTS, "M00", "OUT", *_OUTPUTS, "TIME_EMBED")
"""Order of auto-MBW-rt's search and CSV history, and of hyperactive's best parameter set."""

RECIPE_ORDER: tuple[str, ...] = (*_INPUTS, "M00", *_OUTPUTS, "OUT", "TIME_EMBED")
"""Order of the weights line of auto-MBW-rt's `recipe.txt` and of `mbwrt_weights`."""

RUNTIME_ORDER: tuple[str, ...] = (*_INPUTS, "M00", *_OUTPUTS, "TIME_EMBED", "OUT")
"""Order of upstream runtime-block-merge (paste field and presets)."""

ORDERS: Mapping[str, tuple[str, ...]] = {"nat": NAT_ORDER, "recipe": RECIPE_ORDER, "runtime": RUNTIME_ORDER}

_NUMBERED_KEY = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.")
_NAMED_PREFIXES = {
    "middle_block.": "M00",
    "time_embed.": "TIME_EMBED",
    "out.": "OUT",
    "label_emb.": "LABEL_EMB",
}


def block_of(key: str) -> str | None:
    """The block that a tensor moves with.

    key: an LDM key, with or without `model.diffusion_model.`. Returns None for what is no part of the UNet
    (VAE, text encoder, EMA copies, schedule buffers).
    """
    name = key.removeprefix(UNET_PREFIX)
    numbered = _NUMBERED_KEY.match(name)
    if numbered:
        return f"{'IN' if numbered[1] == 'input_blocks' else 'OUT'}{int(numbered[2]):02d}"
    return next((block for prefix, block in _NAMED_PREFIXES.items() if name.startswith(prefix)), None)


def check_weights(weights: Mapping[str, float], blocks: Sequence[str]) -> BlockWeights:
    """The weights in the order of `blocks`; InputError for wrong blocks and for values not in [0, 1]."""
    unknown = [name for name in weights if name not in blocks]
    if unknown:
        raise InputError(f"unknown block {unknown[0]!r}; the blocks of this model are {', '.join(blocks)}")
    missing = [name for name in blocks if name not in weights]
    if missing:
        raise InputError(f"no weight for block {', '.join(missing)}; give every block a weight from 0 to 1")
    return {name: _checked(name, weights[name]) for name in blocks}


def uniform(blocks: Sequence[str], alpha: float) -> BlockWeights:
    """The same alpha in [0, 1] for every block."""
    return check_weights(dict.fromkeys(blocks, alpha), blocks)


def _checked(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"the weight of block {name} is {value!r}; it must be a number from 0 to 1")
    # Written so that NaN fails too.
    if not (math.isfinite(value) and 0.0 <= value <= 1.0):
        raise InputError(f"the weight of block {name} is {value}; it must lie from 0 (all A) to 1 (all B)")
    return float(value)
