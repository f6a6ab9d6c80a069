"""Which block weights a search may try: blocks frozen at a value, bounds, and blocks that share one value.

Elements (optimizer/elements.py), the tensors of a block that have a weight of their own, are named beside the
blocks.

A sampler sees the free dimensions alone, each in [0, 1] over its bounds: `Space.weights` makes block weights
of such a point and `Space.point` goes back, as mergekit's genome does between a vector and a configuration.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from optimizer.blocks import BLOCKS, SDXL_BLOCKS, BlockWeights
from optimizer.elements import (
    ALL_BLOCKS,
    Alpha,
    AnyPattern,
    ElementPattern,
    check_order,
    element,
    in_order,
    is_element,
    parts_found,
    pattern_of_row,
)
from scoring.errors import InputError

Point = dict[str, float]
"""Name of a dimension -> where it stands between its bounds, 0 to 1."""

ALL = "all"
"""In `bounds`: every block that has none of its own."""

# What is lost when a weight is written between bounds and read back.
_ROUNDING = 1e-9
_WHOLE = (0.0, 1.0)
Value = TypeVar("Value")


class SpaceSettings(BaseModel):
    """The constraints of a search, by names of blocks and by ranges such as `IN00-IN05`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    freeze: dict[str, Alpha] = Field(
        default_factory=dict, description="Blocks that keep one weight: {TIME_EMBED: 0, IN00-IN02: 0.5}."
    )
    bounds: dict[str, tuple[Alpha, Alpha]] = Field(
        default_factory=dict,
        description="Lowest and highest weight: {all: [0.2, 0.8], M00: [0, 0.5]}. `all` is for the blocks "
        "that have no bounds of their own.",
    )
    ties: list[str | list[str]] = Field(
        default_factory=list,
        description="Groups of blocks that share one weight: [IN00-IN05, [OUT00, OUT11]].",
    )
    symmetric: bool = Field(
        default=False, description="Tie the first input block to the last output block, and so on inwards."
    )
    elements: list[AnyPattern] = Field(
        default_factory=list,
        description="Tensors that have a weight of their own, apart from that of their block, by parts of "
        "their names: [{blocks: IN00-IN05, tensors: attn2, bounds: [0, 0.5]}, 'OUT03:ff.net:0.3'].",
    )

    @model_validator(mode="after")
    def _fits_an_architecture(self) -> SpaceSettings:
        try:
            self.resolved(BLOCKS)
        except InputError:
            if not _mentions_sdxl_alone(self):
                raise
            self.resolved(SDXL_BLOCKS)
        return self

    @property
    def is_whole(self) -> bool:
        """Whether nothing is constrained."""
        return not (self.freeze or self.bounds or self.ties or self.symmetric)

    @property
    def element_names(self) -> list[str]:
        """The elements of resolved settings."""
        return [element(pattern.blocks, *pattern.tensors) for pattern in map(_pattern, self.elements)]

    def resolved(self, blocks: Sequence[str], tensors: Collection[str] | None = None) -> SpaceSettings:
        """The same constraints on an architecture's blocks, without ranges, `all` and `symmetric`.

        A tie of which one block is frozen is frozen whole; the bounds of a tie are those that all its blocks
        allow. A pattern becomes the elements of its blocks, tied or frozen. tensors: the full keys of the
        architecture's UNet; an element without any is left out (None: they are not looked at). Raises
        InputError for unknown blocks, contradictions, a pattern of no tensor, and when nothing is left to be
        searched.
        """
        patterns = [(said, _elements_of(said, blocks, tensors)) for said in map(_pattern, self.elements)]
        names = _Names.of(blocks, [name for _, found in patterns for name in found])
        if tensors is not None:
            check_order(names.elements, tensors)
        freeze = _by_name("freeze", self.freeze, names)
        limited = _by_name("bounds", {k: v for k, v in self.bounds.items() if k != ALL}, names)
        groups = _groups(self, names)
        for pattern, found in patterns:
            _said_once("freeze", found if pattern.alpha is not None else (), freeze)
            _said_once("bounds", found if pattern.bounds is not None else (), limited)
            if pattern.alpha is not None:
                freeze |= dict.fromkeys(found, pattern.alpha)
            elif pattern.bounds is not None:
                limited |= dict.fromkeys(found, pattern.bounds)
            if len(found) > 1:
                _said_once("ties", found, {name: group for group in groups for name in group})
                groups.append(tuple(found))
        return self._settled(names, freeze, limited, groups)

    def _settled(
        self,
        names: _Names,
        frozen: dict[str, float],
        bounds: Mapping[str, tuple[float, float]],
        groups: Sequence[tuple[str, ...]],
    ) -> SpaceSettings:
        for group in groups:
            frozen |= _frozen_whole(group, frozen)
        for name in bounds:
            if name in frozen:
                raise InputError(f"space: {name} is frozen and has bounds; leave it out of one of them")
        otherwise = self.bounds.get(ALL, _WHOLE)
        free = [name for name in names.all if name not in frozen]
        if not free:
            raise InputError("space: every block is frozen and nothing is left to search; leave one free")
        limits = {name: bounds.get(name, otherwise) for name in free}
        for name, limit in limits.items():
            _check_limits(name, limit)
        ties = [group for group in groups if group[0] not in frozen]
        for group in ties:
            limits |= dict.fromkeys(group, _common(group, limits))
        return SpaceSettings.model_construct(
            freeze=frozen,
            bounds={name: limit for name, limit in limits.items() if limit != _WHOLE},
            ties=[list(group) for group in ties],
            symmetric=False,
            elements=[_one_element(name) for name in names.elements],
        )


@dataclass(frozen=True)
class _Names:
    """What has a weight: blocks, and elements of them. all: both, in order."""

    blocks: Sequence[str]
    elements: Sequence[str]
    all: Sequence[str]

    @classmethod
    def of(cls, blocks: Sequence[str], elements: Sequence[str]) -> _Names:
        for place, name in enumerate(elements):
            if name in elements[:place]:
                raise InputError(f"space.elements: {name} is named twice; name it once")
        return cls(blocks, elements, in_order([*blocks, *elements], blocks))


@dataclass(frozen=True)
class Dimension:
    """What a sampler moves as one: blocks or elements of a tie, or a single one. low < high, in [0, 1]."""

    blocks: tuple[str, ...]
    low: float
    high: float

    @property
    def name(self) -> str:
        """The first of its blocks."""
        return self.blocks[0]

    def weight(self, place: float) -> float:
        """The block weight at a place in [0, 1] between the bounds."""
        return min(self.high, self.low + place * (self.high - self.low))

    def place(self, weights: Mapping[str, float]) -> float:
        """Where the weights of its blocks lie, in the mean and within the bounds, from 0 to 1."""
        mean = fmean([weights[block] for block in self.blocks])
        return min(1.0, max(0.0, (mean - self.low) / (self.high - self.low)))


@dataclass(frozen=True)
class Space:
    """The block weights that a search may try. blocks: those that move the UNet, in order."""

    blocks: tuple[str, ...]
    dimensions: tuple[Dimension, ...]
    frozen: Mapping[str, float]

    @classmethod
    def of(cls, settings: SpaceSettings, blocks: Sequence[str]) -> Space:
        """The space of `resolved` settings over the blocks that move the UNet.

        A dimension whose blocks move nothing is none. Raises InputError when no dimension is left, and
        ValueError for settings that are not resolved.
        """
        if any(isinstance(tie, str) for tie in settings.ties) or settings.symmetric or ALL in settings.bounds:
            raise ValueError("these settings are not resolved for an architecture")
        head = {name: tuple(tie) for tie in settings.ties for name in tie}
        groups = dict.fromkeys(head.get(name, (name,)) for name in blocks if name not in settings.freeze)
        dimensions = tuple(
            Dimension(tuple(b for b in blocks if b in group), *settings.bounds.get(group[0], _WHOLE))
            for group in groups
        )
        if not dimensions:
            raise InputError(
                f"search.space: the blocks that differ between A and B ({', '.join(blocks)}) are all frozen; "
                "free one of them"
            )
        frozen = {name: alpha for name, alpha in settings.freeze.items() if name in blocks}
        return cls(tuple(blocks), dimensions, frozen)

    @property
    def names(self) -> list[str]:
        """The dimensions' names, in order."""
        return [dimension.name for dimension in self.dimensions]

    @cached_property
    def _is_whole(self) -> bool:
        """Whether every block moves by itself from 0 to 1: points are weights then."""
        ranges = {(dimension.blocks, dimension.low, dimension.high) for dimension in self.dimensions}
        return ranges == {((block,), *_WHOLE) for block in self.blocks}

    def weights(self, point: Mapping[str, float]) -> BlockWeights:
        """The block weights of a point."""
        given = dict(self.frozen)
        for dimension in self.dimensions:
            given |= dict.fromkeys(dimension.blocks, dimension.weight(point[dimension.name]))
        return {block: given[block] for block in self.blocks}

    def point(self, weights: Mapping[str, float]) -> Point:
        """The point whose weights are closest to these (by least squares, within the bounds)."""
        if self._is_whole:
            # Nearly always, and a search may have thousands of trials.
            return {block: min(1.0, max(0.0, weights[block])) for block in self.blocks}
        return {dimension.name: dimension.place(weights) for dimension in self.dimensions}

    def nearest(self, weights: Mapping[str, float]) -> BlockWeights:
        """The weights of the space that are closest to these."""
        return self.weights(self.point(weights))

    def contains(self, weights: Mapping[str, float]) -> bool:
        """Whether a search of this space may try these weights."""
        if self._is_whole:
            return all(-_ROUNDING <= weights[block] <= 1 + _ROUNDING for block in self.blocks)
        near = self.nearest(weights)
        return all(abs(near[block] - weights[block]) <= _ROUNDING for block in self.blocks)

    def slopes(self, by_block: Mapping[str, float]) -> Point:
        """The slopes of a score along the dimensions, from those along the blocks (the chain rule)."""
        return {
            dimension.name: (dimension.high - dimension.low) * sum(by_block[b] for b in dimension.blocks)
            for dimension in self.dimensions
        }


def blocks_named(text: str, blocks: Sequence[str]) -> list[str]:
    """The blocks of `IN00-IN05`, `M00` or several of these with commas or spaces, of an architecture.

    A range runs down the U and up again (`IN10-OUT02`). Raises InputError.
    """
    parts = re.split(r"[,\s]+", text.strip())
    return [name for part in parts for name in _range(part, blocks)]


def _range(text: str, blocks: Sequence[str]) -> list[str]:
    ends = text.split("-")
    for name in ends:
        if name not in blocks:
            raise InputError(f"space: unknown block {name!r}; the blocks are {', '.join(blocks)}")
    first, last = blocks.index(ends[0]), blocks.index(ends[-1])
    if len(ends) > 2 or last < first:
        raise InputError(f"space: {text!r} is no range; write the first and the last block, as IN00-IN05")
    return list(blocks[first : last + 1])


def _pattern(said: ElementPattern | str) -> ElementPattern:
    return pattern_of_row(said) if isinstance(said, str) else said


def _one_element(name: str) -> ElementPattern:
    block, _, part = name.partition("/")
    return ElementPattern(blocks=block, tensors=[part])


def _elements_of(
    pattern: ElementPattern, blocks: Sequence[str], tensors: Collection[str] | None
) -> list[str]:
    """The elements that a pattern stands for. Raises InputError where a part of it has no tensor."""
    within = list(blocks) if pattern.blocks == ALL_BLOCKS else blocks_named(pattern.blocks, blocks)
    if tensors is None:
        return [element(block, part) for block in within for part in pattern.tensors]
    found = {block: parts_found(block, pattern.tensors, tensors) for block in within}
    for part in pattern.tensors:
        if not any(part in parts for parts in found.values()):
            raise InputError(
                f"space.elements: no tensor of {pattern.blocks} has {part!r} in its name; take other blocks, "
                "or another part, such as attn1, attn2, ff.net, norm, proj_in or in_layers"
            )
    return [element(block, part) for block, parts in found.items() for part in parts]


def _named(text: str, names: _Names) -> list[str]:
    """As `blocks_named`, and elements."""
    found: list[str] = []
    for part in re.split(r"[,\s]+", text.strip()):
        if not is_element(part):
            found += _range(part, names.blocks)
        elif part in names.elements:
            found.append(part)
        else:
            there = ", ".join(names.elements) or "there are none"
            raise InputError(f"space: unknown element {part!r}; those of `elements`: {there}")
    return found


def _by_name(field: str, given: Mapping[str, Value], names: _Names) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for text, value in given.items():
        for name in _named(text, names):
            _said_once(field, [name], found)
            found[name] = value
    return found


def _said_once(field: str, names: Iterable[str], known: Mapping[str, object]) -> None:
    for name in names:
        if name in known:
            raise InputError(f"space.{field}: {name} is named twice; name it once")


def _groups(settings: SpaceSettings, names: _Names) -> list[tuple[str, ...]]:
    """What shares a weight, each group in the architecture's order."""
    group_of: dict[str, set[str]] = {}
    for tie in settings.ties:
        tied = [name for text in ([tie] if isinstance(tie, str) else tie) for name in _named(text, names)]
        if len(tied) < 2:
            raise InputError(f"space.ties: {tie!r} is one block; a tie is of two or more")
        for name in tied:
            if name in group_of or tied.count(name) > 1:
                raise InputError(f"space.ties: {name} is tied twice; put all that share a weight in one tie")
        group_of |= {name: set(tied) for name in tied}
    if settings.symmetric:
        inputs, outputs = (_numbered(side, names.blocks) for side in ("IN", "OUT"))
        for pair in zip(inputs, reversed(outputs), strict=True):
            joined = set().union(*(group_of.get(name, {name}) for name in pair))
            group_of |= dict.fromkeys(joined, joined)
    groups = dict.fromkeys(
        tuple(b for b in names.all if b in group_of[n]) for n in names.all if n in group_of
    )
    return list(groups)


def _numbered(side: str, blocks: Sequence[str]) -> list[str]:
    return [name for name in blocks if re.fullmatch(side + r"\d\d", name)]


def _frozen_whole(group: Sequence[str], frozen: Mapping[str, float]) -> dict[str, float]:
    """The whole group at the weight that one of its blocks is frozen at; nothing where none is."""
    values = {frozen[name] for name in group if name in frozen}
    if len(values) > 1:
        held = ", ".join(f"{name} at {frozen[name]:g}" for name in group if name in frozen)
        raise InputError(f"space: {held} are tied and frozen apart; freeze one of them, or untie them")
    return dict.fromkeys(group, *values) if values else {}


def _common(group: Sequence[str], limits: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    low, high = max(limits[name][0] for name in group), min(limits[name][1] for name in group)
    if low >= high:
        raise InputError(f"space: {', '.join(group)} are tied, and their bounds have nothing in common")
    return low, high


def _check_limits(name: str, limits: tuple[float, float]) -> None:
    low, high = limits
    if low >= high:
        remedy = f"to hold it there write freeze: {{{name}: {low:g}}}" if low == high else "swap them"
        raise InputError(f"space.bounds: {name} from {low:g} to {high:g} leaves nothing to search; {remedy}")


def _mentions_sdxl_alone(settings: SpaceSettings) -> bool:
    ties = [text for tie in settings.ties for text in ([tie] if isinstance(tie, str) else tie)]
    inside = [_pattern(pattern).blocks for pattern in settings.elements]
    return "LABEL_EMB" in " ".join([*settings.freeze, *settings.bounds, *ties, *inside])
