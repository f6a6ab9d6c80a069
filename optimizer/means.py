"""Tensors of files as they go into a new file: copied, rounded, or the mean over many files.

Numbers are read in chunks into buffers that stay in a core's cache, by several threads; nothing is mapped, so
memory is one result and a few chunks a thread, whatever the files' number and size.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from optimizer.checkpoints.reading import CheckpointFile
from scoring.errors import InputError

# So many summands keep the error of an fp32 sum far below what rounding to half precision costs.
MOST_IN_FP32 = 8
# Numbers that are summed at a time: accumulator, one file's numbers and their bytes fit a core's cache.
CHUNK = 1 << 17
_MOST_THREADS = 4


class Means:
    """Reads tensors and means of tensors, on threads of its own. Use with `with`."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or min(_MOST_THREADS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self._threads, "mean", initializer=keep_to_one_core)
        self._scratch = threading.local()

    def __enter__(self) -> Means:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def read(self, file: CheckpointFile, key: str) -> Tensor:
        """A tensor as it is, in memory of its own."""
        entry = file.entries[key]
        out = torch.empty(entry.shape, dtype=entry.dtype)
        flat = file.flat(key, 0, entry.numel, _bytes(out))
        if flat.data_ptr() != out.data_ptr():
            out.view(-1).copy_(flat) if entry.shape else out.copy_(flat.reshape(()))
        return out

    def mean(self, files: Sequence[CheckpointFile], key: str, dtype: torch.dtype) -> Tensor:
        """The sum over the files in fp32 (more than 8 files, or fp64 numbers: in fp64), divided by their
        number and rounded once to `dtype`; the tensor of one file alone is only rounded.

        The shape is the first file's; others may have the same numbers in another shape. Raises InputError
        for a number that float16 cannot hold.
        """
        entry = files[0].entries[key]
        held = [file.entries[key].dtype for file in files]
        wide = len(files) > MOST_IN_FP32 or torch.float64 in held
        exact = torch.float64 if wide else torch.float32
        # What is wider than float16 may hold what float16 cannot.
        ranged = dtype == torch.float16 and any(kind != torch.float16 for kind in held)
        out = torch.empty(entry.numel, dtype=dtype)

        def chunk(start: int) -> None:
            stop = min(start + CHUNK, entry.numel)
            total, number, buffer = self._buffers(exact, stop - start)
            total.copy_(files[0].flat(key, start, stop, buffer))
            for file in files[1:]:
                total.add_(number.copy_(file.flat(key, start, stop, buffer)))
            if len(files) > 1:
                total.div_(len(files))
            if ranged:
                _check_range(total, files[0], key)
            out[start:stop].copy_(total)

        self._each(chunk, range(0, entry.numel, CHUNK))
        return out.view(entry.shape)

    def _each(self, work: Callable[[int], None], starts: range) -> None:
        if len(starts) == 1:
            work(0)
            return
        for done in [
            self._pool.submit(self._alone, work, starts[first :: self._threads])
            for first in range(min(self._threads, len(starts)))
        ]:
            done.result()

    @staticmethod
    def _alone(work: Callable[[int], None], starts: range) -> None:
        for start in starts:
            work(start)

    def _buffers(self, exact: torch.dtype, numel: int) -> tuple[Tensor, Tensor, Tensor]:
        """This thread's accumulator, a place for one file's numbers, and one for their bytes."""
        if not hasattr(self._scratch, "memory"):
            self._scratch.memory = torch.empty(3, 8 * CHUNK, dtype=torch.uint8)
        total, number, buffer = self._scratch.memory
        return total.view(exact)[:numel], number.view(exact)[:numel], buffer


def keep_to_one_core() -> None:
    """For a thread of a pool: its torch operations stay on it."""
    # OpenMP's number is each thread's own; torch sets it when a thread first asks, so that comes first.
    torch.get_num_threads()
    threadpool_limits(1, user_api="openmp")


def _check_range(total: Tensor, file: CheckpointFile, key: str) -> None:
    low, high = torch.aminmax(total)
    most = max(-float(low), float(high))
    if torch.finfo(torch.float16).max < most < float("inf"):
        raise InputError(
            f"{file.path.name}: {key} holds {most:.6g}, and float16 ends at 65504; choose bfloat16 or float32"
        )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)
