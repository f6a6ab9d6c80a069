"""Emphasis: `(louder)`, `[softer]`, `(by a number:1.3)`, and BREAK."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

ROUND = 1.1
SQUARE = 1 / 1.1

_LEXEME = re.compile(
    r"""
    \\ (?P<escaped> [\\()\[\]]? )
  | : \s* (?P<weight> [+-]? (?: [0-9]+ \.? [0-9]* | \. [0-9]+ ) ) \s* \)
  | (?P<bracket> [()\[\]] )
  | (?P<text> [^\\:()\[\]]+ )
  | :
    """,
    re.VERBOSE,
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
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
    parts: list[Span | Break] = []
    opened: dict[str, list[int]] = {")": [], "]": []}  # where the brackets begin that are still open
    for lexeme in _LEXEME.finditer(text):
        bracket, weight = lexeme["bracket"], lexeme["weight"]
        if bracket in ("(", "["):
            opened[")" if bracket == "(" else "]"].append(len(parts))
        elif bracket and opened[bracket]:
            _multiply(parts, opened[bracket].pop(), ROUND if bracket == ")" else SQUARE)
        elif weight and opened[")"]:
            _multiply(parts, opened[")"].pop(), float(weight))
        else:
            parts.extend(_broken(lexeme.group() if lexeme["escaped"] is None else lexeme["escaped"]))
    for start in opened[")"]:
        _multiply(parts, start, ROUND)
    for start in opened["]"]:
        _multiply(parts, start, SQUARE)
    return _merged(parts)


def to_text(parts: Sequence[Span | Break]) -> str:
    """A prompt that `parse_emphasis` reads as `parts`, given that these are as it makes them and their
    weights are finite."""
    return "".join(_shown(part) for part in parts)


def _multiply(parts: list[Span | Break], start: int, factor: float) -> None:
    for i, part in enumerate(parts[start:], start):
        if isinstance(part, Span):
            parts[i] = replace(part, weight=part.weight * factor)


def _broken(text: str) -> Iterator[Span | Break]:
    for i, piece in enumerate(_BREAK.split(text)):
        if i:
            yield Break()
        if piece:
            yield Span(piece)


def _merged(parts: Sequence[Span | Break]) -> list[Span | Break]:
    merged: list[Span | Break] = []
    for part in parts:
        last = merged[-1] if merged else None
        if isinstance(part, Span) and isinstance(last, Span) and part.weight == last.weight:
            merged[-1] = Span(last.text + part.text, last.weight)
        else:
            merged.append(part)
    return merged


def _shown(part: Span | Break) -> str:
    if isinstance(part, Break):
        return "()BREAK()"  # the empty brackets keep the spaces beside it, which are its own otherwise
    # Empty brackets vanish too: a word that only reads BREAK once they have is text.
    text = _TO_ESCAPE.sub(r"\\\g<0>", part.text).replace("BREAK", "BRE()AK")
    return text if part.weight == 1 else f"({text}:{Decimal(repr(part.weight)):f})"
