"""Emphasis: `(louder)`, `[softer]`, `(by a number:1.3)`, and BREAK."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby

import numpy as np

ROUND = 1.1
SQUARE = 1 / 1.1

_LEXEME = re.compile(
    r"""
    \\ (?P<escaped> [\\()\[\]]? )
  | : \s* (?P<number> [+-]? (?: [0-9]+ (?: \. [0-9]* )? | \. [0-9]+ ) ) \s* \)
  | (?P<bracket> [()\[\]] )
  | (?P<text> [^\\:()\[\]]+ )
  | :
    """,
    re.VERBOSE,
)
# White space is looked at from its beginning only: from each of its places it would take its square in time.
_BREAK = re.compile(r"(?:(?<!\s)\s+)?\bBREAK\b\s*")
_TO_ESCAPE = re.compile(r"[\\()\[\]]")


@dataclass(frozen=True)
class Span:
    """Text, never empty, whose token vectors are multiplied by `weight`."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Break:
    """The rest of the chunk stays empty; what follows begins a new one."""


def parse_emphasis(text: str) -> list[Span | Break]:
    """The spans and breaks of a text; neighbours of one weight are one span. Any text can be parsed.

    Weights multiply from the inside out: round brackets by 1.1, or by their number, square ones by 1/1.1.
    A bracket left open reaches to the end; one that closes nothing, and a number outside of round brackets,
    is text. The two kinds of brackets may overlap. A backslash makes a bracket or backslash behind it text,
    and vanishes.
    """
    pieces: list[str | Break] = []
    # No piece is empty. An array, since brackets in brackets multiply what lies behind them again and again.
    weights = np.ones(len(text) + 1)
    opened: dict[str, list[int]] = {")": [], "]": []}  # where the brackets begin that are still open

    def multiply(start: int, factor: float) -> None:
        weights[start : len(pieces)] *= factor

    for lexeme in _LEXEME.finditer(text):
        bracket, number = lexeme["bracket"], lexeme["number"]
        if bracket in ("(", "["):
            opened[")" if bracket == "(" else "]"].append(len(pieces))
        elif bracket and opened[bracket]:
            multiply(opened[bracket].pop(), ROUND if bracket == ")" else SQUARE)
        elif number and opened[")"]:
            multiply(opened[")"].pop(), float(number))
        else:
            pieces.extend(_broken(lexeme.group() if lexeme["escaped"] is None else lexeme["escaped"]))
    for start in opened[")"]:
        multiply(start, ROUND)
    for start in opened["]"]:
        multiply(start, SQUARE)
    return _merged(pieces, weights[: len(pieces)].tolist())


def to_text(parts: Sequence[Span | Break]) -> str:
    """A prompt that `parse_emphasis` reads as `parts`, given that these are as it makes them and their
    weights are finite."""
    return "".join(_shown(part) for part in parts)


def _broken(text: str) -> Iterator[str | Break]:
    for i, piece in enumerate(_BREAK.split(text)):
        if i:
            yield Break()
        if piece:
            yield piece


def _merged(pieces: Sequence[str | Break], weights: Sequence[float]) -> list[Span | Break]:
    parts: list[Span | Break] = []
    # A break has no weight of its own; None keeps it apart from its neighbours.
    keyed = zip(pieces, weights, strict=True)
    for weight, run in groupby(keyed, lambda pair: None if isinstance(pair[0], Break) else pair[1]):
        if weight is None:
            parts.extend(Break() for _ in run)
        else:
            parts.append(Span("".join(str(piece) for piece, _ in run), weight))
    return parts


def _shown(part: Span | Break) -> str:
    if isinstance(part, Break):
        return "()BREAK()"  # the empty brackets keep the spaces beside it, which are its own otherwise
    # Empty brackets vanish too: a word that only reads BREAK once they have is text.
    text = _TO_ESCAPE.sub(r"\\\g<0>", part.text).replace("BREAK", "BRE()AK")
    return text if part.weight == 1 else f"({text}:{Decimal(repr(part.weight)):f})"
