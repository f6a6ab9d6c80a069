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
    limiter = _long.get(None)
    if limiter is None:
        _long.set(limiter := CapacityLimiter(LONG))
    return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=limiter)


def reads(function: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """A handler that asks the database for a little and writes nothing: see `limit_threads`."""

    @wraps(function)
    async def in_thread(*args: P.args, **kwargs: P.kwargs) -> T:
        return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=_readers.get(None))

    return in_thread


def takes_long(function: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """A handler that `run_long` runs."""

    @wraps(function)
    async def in_thread(*args: P.args, **kwargs: P.kwargs) -> T:
        return await run_long(function, *args, **kwargs)

    return in_thread
