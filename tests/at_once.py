"""Functions that begin at the same moment, in threads of this process or in processes of their own."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from threading import Barrier
from typing import Any, TypeVar

Result = TypeVar("Result")

# A new process imports SQLAlchemy first, which takes a busy machine a while.
PATIENCE = 120.0
_start: Barrier


def in_threads(function: Callable[..., Result], arguments: Sequence[tuple[Any, ...]]) -> list[Result]:
    """What the function returns for each tuple of arguments; raises what the first of them raised."""
    start = threading.Barrier(len(arguments), timeout=PATIENCE)

    def begin(given: tuple[Any, ...]) -> Result:
        start.wait()
        return function(*given)

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(begin, arguments))


def in_processes(function: Callable[..., Result], arguments: Sequence[tuple[Any, ...]]) -> list[Result]:
    """The same in processes that share nothing; `function` must be one of a module."""
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(len(arguments), timeout=PATIENCE)
    with ProcessPoolExecutor(len(arguments), spawn, _remember, (start,)) as pool:
        begun = [pool.submit(_begin, function, given) for given in arguments]
        return [future.result(PATIENCE) for future in begun]


def _remember(start: Barrier) -> None:
    global _start  # noqa: PLW0603 - a barrier reaches a process only while it is made
    _start = start


def _begin(function: Callable[..., Result], given: tuple[Any, ...]) -> Result:
    _start.wait()
    return function(*given)
