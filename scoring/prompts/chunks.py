"""Weighted text to chunks of 75 tokens, what a CLIP text encoder reads at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from scoring.prompts.emphasis import Break, Span

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_LENGTH = 75
COMMA_BACKTRACK = 20
"""A1111's default: how far from its end a full chunk may be cut behind a comma."""


@dataclass(frozen=True)
class Token:
    """A token, or one vector of an embedding that stands for its name.

    vector: (width,), takes the place of what the text encoder knows under `id`.
    """

    id: int
    weight: float
    vector: Tensor | None = None


class Embeddings(Protocol):
    """Knows which token ids are the name of an embedding."""

    def find(self, ids: Sequence[int], position: int) -> tuple[Tensor, int] | None:
        """The vectors (n, width) of the name that begins at `position`, and its length in tokens."""


def split_into_chunks(
    parts: Sequence[Span | Break],
    tokenize: Callable[[str], list[int]],
    comma: int,
    embeddings: Embeddings | None = None,
) -> list[list[Token]]:
    """At least one chunk of at most 75 tokens, without the marks at both ends and without padding.

    tokenize: text to ids. comma: the id of `,`. A full chunk is cut behind its last comma where that is among
    its last 20 tokens; what follows it goes to the next chunk. A BREAK ends a chunk, even an empty one.
    The vectors of an embedding stay together.
    """
    chunks = _Chunks(comma)
    for part in parts:
        if isinstance(part, Break):
            chunks.end()
            continue
        ids = tokenize(part.text)
        position = 0
        while position < len(ids):
            token = ids[position]
            chunks.make_room(token)
            found = embeddings.find(ids, position) if embeddings else None
            if found is None:
                chunks.append([Token(token, part.weight)])
                position += 1
            else:
                vectors, length = found
                # The id is never looked up; 0 is what A1111 puts here.
                chunks.append([Token(0, part.weight, vector) for vector in vectors])
                position += length
    return chunks.all()


class _Chunks:
    def __init__(self, comma: int) -> None:
        self._comma = comma
        self._full: list[list[Token]] = []
        self._open: list[Token] = []
        self._behind_comma: int | None = None

    def make_room(self, token: int) -> None:
        """Ends the open chunk if it is full, and remembers where commas are."""
        if token == self._comma:
            self._behind_comma = len(self._open) + 1
        if len(self._open) < CHUNK_LENGTH:
            return
        cut = self._behind_comma
        if token == self._comma or cut is None or CHUNK_LENGTH - cut >= COMMA_BACKTRACK:
            self.end()
            return
        moved = self._open[cut:]
        del self._open[cut:]
        self.end()
        self._open = moved

    def append(self, tokens: Sequence[Token]) -> None:
        if len(self._open) + len(tokens) > CHUNK_LENGTH:
            self.end()
        self._open.extend(tokens)

    def end(self) -> None:
        self._full.append(self._open)
        self._open = []
        self._behind_comma = None

    def all(self) -> list[list[Token]]:
        if self._open or not self._full:
            self.end()
        return self._full
