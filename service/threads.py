"""The threads in which handlers run: one that reads SQLite, few for what is quick, others for what is long.

Python runs one thread at a time. With forty of them that each read a little, as anyio would have it, nearly
all of the time goes by in waiting for a turn, and the loop that sends the answers waits too. A thread gives
its turn away at every statement of SQLite, so that already two of them, which together read no faster than
one, hold each other and the loop up. Measured by `python -m benchmarks.load` (docs/load.md).
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

QUICK, LONG = 6, 16
TURN_SECONDS = 0.0002

P = ParamSpec("P")
T = TypeVar("T")
_long: RunVar[CapacityLimiter] = RunVar("autombw.long")
_readers: RunVar[CapacityLimiter] = RunVar("autombw.readers")


def limit_threads(readers: int = QUICK) -> None:
    """Let QUICK threads answer at once, and each for TURN_SECONDS while another waits. Called in the loop.

    readers: how many of what `reads`, beside them.
    """
    to_thread.current_default_thread_limiter().total_tokens = QUICK
    _readers.set(CapacityLimiter(readers))
    sys.setswitchinterval(TURN_SECONDS)


async def run_long(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What reads, hashes or writes files of several GB, in one of LONG threads that hold nobody else up."""
    return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=_long_limiter())


def reads(function: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """A handler that asks the database for a little and writes nothing: see `limit_threads`."""

    return _in_threads(function, lambda: _readers.get(None))


def takes_long(function: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """A handler that runs where `run_long` does."""

    return _in_threads(function, _long_limiter)


def _long_limiter() -> CapacityLimiter:
    limiter = _long.get(None)
    if limiter is None:
        _long.set(limiter := CapacityLimiter(LONG))
    return limiter


def _in_threads(
    function: Callable[P, T], limiter: Callable[[], CapacityLimiter | None]
) -> Callable[P, Awaitable[T]]:
    @wraps(function)
    async def in_thread(*args: P.args, **kwargs: P.kwargs) -> T:
        return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=limiter())

    return in_thread
