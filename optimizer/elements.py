"""Elements: tensors of a block that have a weight of their own, chosen by parts of their names.

After supermerger's elemental merge (hako-mikan/sd-webui-supermerger, elemental_en.md), whose rows
`BLOCKS:ELEMENTS:RATIO` are read too. An element is called BLOCK/PART, as IN04/attn2: all tensors of IN04 with
`attn2` in their names. It stands beside the blocks wherever weights are carried by name, and its block keeps
the other tensors. A tensor that several elements name belongs to the one of the longest part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from optimizer.blocks import UNET_PREFIX, block_of
from scoring.errors import InputError

Alpha = Annotated[float, Field(ge=0, le=1)]
ALL_BLOCKS = "all"
_MARK = "/"
_PART = re.compile(r"[A-Za-z0-9_.]+")
_BETWEEN = re.compile(r"[,\s]+")


class ElementPattern(BaseModel):
    """Tensors of some blocks that share one weight, apart from that of their blocks.

    With `alpha` it is fixed; else it is searched, within `bounds` where there are any.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    blocks: str = Field(default=ALL_BLOCKS, description="Names and ranges: IN00-IN05, M00 OUT03, or all.")
    tensors: list[str] = Field(
        min_length=1,
        description="Parts of tensors' names, as in checkpoints: attn2, ff.net, norm, attn1.to_k; a list, or "
        "one text with spaces or commas.",
    )
    alpha: Alpha | None = Field(default=None, description="The weight, where it is not searched.")
    bounds: tuple[Alpha, Alpha] | None = Field(default=None, description="Lowest and highest weight.")

    @field_validator("tensors", mode="before")
    @classmethod
    def _one_text(cls, value: Any) -> Any:
        return _BETWEEN.split(value.strip()) if isinstance(value, str) else value

    @field_validator("tensors")
    @classmethod
    def _are_parts(cls, parts: list[str]) -> list[str]:
        for part in parts:
            if not _PART.fullmatch(part):
                raise InputError(
                    f"{part!r} is no part of a tensor's name; write such as attn2, ff.net or norm1"
                )
        return parts

    @field_validator("bounds")
    @classmethod
    def _not_both(cls, bounds: tuple[float, float] | None, info: Any) -> tuple[float, float] | None:
        if bounds is not None and info.data.get("alpha") is not None:
            raise InputError("it has `alpha` and `bounds`: a fixed weight has no bounds; leave one out")
        return bounds


def pattern_of_row(row: str) -> ElementPattern:
    """The pattern of `BLOCKS:ELEMENTS:RATIO`; without a ratio it is searched. Raises InputError."""
    fields = [field.strip() for field in row.split(":")]
    if len(fields) not in (2, 3) or not fields[1]:
        raise InputError(
            f"{row!r} is no pattern; write BLOCKS:ELEMENTS:RATIO, as IN00-IN05:attn1,attn2:0.3, or "
            "{blocks: IN00-IN05, tensors: attn2, bounds: [0, 0.5]}"
        )
    if "NOT" in (words := [word for field in fields[:2] for word in _BETWEEN.split(field)]):
        raise InputError(f"{row!r}: {words[words.index('NOT')]} is not understood; name what is meant")
    blocks, parts, ratio = fields[0] or ALL_BLOCKS, fields[1], fields[2] if len(fields) == 3 else None
    try:
        alpha = None if ratio is None else float(ratio)
    except ValueError:
        alpha = -1.0
    if alpha is not None and not 0 <= alpha <= 1:
        raise InputError(f"{row!r}: the ratio is {ratio!r}; it must lie from 0 (all A) to 1 (all B)")
    return ElementPattern.model_validate({"blocks": blocks, "tensors": parts, "alpha": alpha})


def _checked_row(row: str) -> str:
    pattern_of_row(row)
    return row


AnyPattern = Annotated[
    Annotated[str, AfterValidator(_checked_row), Tag("row")] | Annotated[ElementPattern, Tag("pattern")],
    Discriminator(
        lambda value: (
            "row"
            if isinstance(value, str)
            else "pattern"
            if isinstance(value, dict | ElementPattern)
            else None
        ),
        custom_error_type="element",
        custom_error_message="a pattern is BLOCKS:ELEMENTS:RATIO, or {blocks: …, tensors: …, alpha: …}",
    ),
]
"""A pattern, or a row of supermerger's."""


def element(block: str, part: str) -> str:
    """The name of an element."""
    return f"{block}{_MARK}{part}"


def is_element(name: str) -> bool:
    """Whether a name in block weights is that of an element."""
    return _MARK in name


def block_in(name: str) -> str:
    """The block that a name stands for or that its element lies in."""
    return name.partition(_MARK)[0]


def elements_in(names: Iterable[str]) -> list[str]:
    """The elements among names."""
    return [name for name in names if is_element(name)]


def in_order(names: Iterable[str], blocks: Sequence[str]) -> list[str]:
    """Names in the order of `blocks`, each block before its elements; those of other blocks are left out."""
    known = dict.fromkeys(names)
    inside: dict[str, list[str]] = {block: [] for block in blocks}
    for name in known:
        inside.get(block_in(name), []).append(name)
    return [name for block in blocks for name in sorted(inside[block], key=is_element)]


class Groups:
    """The tensors of a UNet by what they move with: an element, or the rest of a block.

    tensors: full keys. elements: by name; each must have a tensor. Raises InputError for one that has none,
    or whose tensors all belong to elements of longer parts.
    """

    names: tuple[str, ...]
    """Blocks in their order, each before its elements. A block whose tensors are all elements' is none."""

    def __init__(self, tensors: Iterable[str], blocks: Sequence[str], elements: Iterable[str] = ()) -> None:
        chosen = list(elements)
        parts: dict[str, list[str]] = {block: [] for block in blocks}
        for name in chosen:
            block, _, part = name.partition(_MARK)
            if block not in parts or not part:
                raise InputError(f"unknown block {block!r} of {name}; the blocks are {', '.join(blocks)}")
            parts[block].append(part)
        for inside in parts.values():
            inside.sort(key=lambda part: (-len(part), part))
        self._of = {key: _group(key, parts[str(block_of(key))]) for key in tensors}
        found = set(self._of.values())
        for name in chosen:
            if name not in found:
                raise InputError(f"no tensor is left for {name}: {_why_none(name, self._of)}")
        self.names = tuple(in_order([*blocks, *chosen], blocks)) if chosen else tuple(blocks)
        self.names = tuple(name for name in self.names if name in found)

    def of(self, key: str) -> str:
        """What a tensor of the UNet moves with."""
        return self._of[key]

    def by_key(self) -> Mapping[str, str]:
        """Every tensor's full key -> what it moves with."""
        return self._of


def parts_found(block: str, parts: Sequence[str], tensors: Iterable[str]) -> list[str]:
    """Those of the parts that a tensor of the block has in its name."""
    names = [_inner(key) for key in tensors if block_of(key) == block]
    return [part for part in parts if any(part in name for name in names)]


def check_order(elements: Sequence[str], tensors: Iterable[str]) -> None:
    """Raise InputError where an element comes after one of a longer part with which it shares a tensor.

    supermerger lets the later one take such tensors, and we the longer one: with the longer one last both
    mean the same.
    """
    keys = list(tensors)
    for place, later in enumerate(elements):
        block, _, short = later.partition(_MARK)
        for earlier in elements[:place]:
            other, _, long = earlier.partition(_MARK)
            if other != block or len(long) < len(short):
                continue
            shared = next((k for k in keys if block_of(k) == block and short in k and long in k), None)
            if shared is not None:
                raise InputError(
                    f"{earlier} and {later} both name {_inner(shared)}, which belongs to the longer part; "
                    "write that one last"
                )


def _group(key: str, parts: Sequence[str]) -> str:
    block, name = str(block_of(key)), _inner(key)
    part = next((part for part in parts if part in name), None)
    return block if part is None else element(block, part)


def _inner(key: str) -> str:
    return key.removeprefix(UNET_PREFIX)


def _why_none(name: str, groups: Mapping[str, str]) -> str:
    block, _, part = name.partition(_MARK)
    others = sorted(
        {group for key, group in groups.items() if block_of(key) == block and part in _inner(key)}
    )
    if others:
        return f"all that it names belong to {', '.join(others)}; leave one out"
    return f"no tensor of {block} has {part!r} in its name; take another part, as attn2, ff.net or norm1"
