"""Composition: `a AND b :0.5`, several texts that each pull the image their way.

Liu et al., Compositional Visual Generation with Composable Diffusion Models (2022).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_AND = re.compile(r"\bAND\b")
_NUMBER = re.compile(r"[+-]?([0-9]+(?:\.[0-9]*)?|\.[0-9]+)")


@dataclass(frozen=True)
class Part:
    """A text and how much of its pull counts; a negative weight pushes away from it."""

    text: str
    weight: float = 1.0


def compose(prompt: str) -> tuple[Part, ...]:
    """The parts of a prompt, one where it has no AND.

    A part ends with its weight, `: 0.5`, or has 1. As in A1111 this holds for the only part too: the number
    in `photo, 16:9` is a weight.
    """
    return tuple(_part(text.rstrip()) for text in _AND.split(prompt))


def _part(text: str) -> Part:
    head, colon, tail = text.rpartition(":")
    number = tail.strip()
    if colon and _NUMBER.fullmatch(number):
        return Part(head.rstrip(), float(number))
    return Part(text)
