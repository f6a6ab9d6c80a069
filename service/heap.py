"""The C library's heaps: few of them, so that freed memory is used again.

glibc gives threads heaps of their own, up to eight a core, and what is freed in one stays in it: with the
threads of a server that runs for days the process grows though Python's objects do not. Measured by
`python -m benchmarks.load` (docs/load.md). mallopt(3): M_ARENA_MAX.
"""

from __future__ import annotations

import ctypes
import platform

ARENAS = 2
_M_ARENA_MAX = -8


def share_heaps() -> None:
    """Let this process have ARENAS heaps at most; called before it starts threads. Only glibc needs it."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)
