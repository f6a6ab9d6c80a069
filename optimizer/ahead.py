"""Work done ahead: the next item of an iterator is made while its reader still works on this one."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, wait
from typing import TypeVar

Item = TypeVar("Item")
Span = tuple[float, float]


def ahead(items: Iterator[Item], executor: Executor | None) -> Generator[Item, None, None]:
    """`items` in order, the next one being made in `executor` while the caller works on this one.

    executor: of one thread; None makes every item in the caller's thread when it is asked for. No item may be
    None. What `items` raises is raised after all items before it were yielded. Closing waits for the item
    that is being made, and drops it with whatever it raises.
    """
    if executor is None:
        yield from items
        return
    making = executor.submit(next, items, None)
    try:
        while (item := making.result()) is not None:
            making = executor.submit(next, items, None)
            yield item
    finally:
        wait([making])


class Stopwatch:
    """The spans of time in which something ran. Of one thread at a time; others may read `spans`."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._since: float | None = None

    def start(self) -> None:
        """It runs from now on."""
        self._since = time.monotonic()

    def stop(self) -> None:
        """It no longer runs; nothing where it did not."""
        if self._since is not None:
            self.spans.append((self._since, time.monotonic()))
            self._since = None

    @property
    def seconds(self) -> float:
        """How long it ran, all spans together."""
        return sum(end - start for start, end in self.spans)


def seconds_of_both(some: list[Span], others: list[Span]) -> float:
    """For how long a span of `some` and one of `others` ran at the same time."""
    return sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in some for b in others)
