"""Threads of a server share the heaps of the C library."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from service.heap import ARENAS

# Every thread holds memory at the same time; malloc_info(3) then tells how many heaps there are.
PROGRAM = """
import ctypes, sys, threading
from service.heap import share_heaps
if sys.argv[1] == "shared":
    share_heaps()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
all_there = threading.Barrier(7)
def hold():
    libc.malloc(1000)
    all_there.wait()
threads = [threading.Thread(target=hold) for _ in range(6)]
for thread in threads: thread.start()
all_there.wait()
stream = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, stream)
libc.fflush(stream)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has heaps for threads")
def test_six_threads_share_the_heaps() -> None:
    found = {}
    for way in ("shared", "alone"):
        command = [sys.executable, "-c", PROGRAM, way]
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
        found[way] = said.count("<heap nr=")
    assert found["shared"] <= ARENAS < found["alone"]
