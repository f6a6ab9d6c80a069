"""What fits the memory of the device: a batch that does not is cut in halves, once for every size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from scoring.errors import TrialFailed

Rows = TypeVar("Rows", list[int], list[str], Tensor)
# What the allocators of CUDA, MPS and the CPU say, and the libraries that allocate for themselves.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "alloc_failed")


class Kind(NamedTuple):
    """Images that need the same memory: "render" or "decode", their size in pixels, rows of the UNet each."""

    doing: str
    width: int
    height: int
    rows: int


class DoesNotFit(TrialFailed):
    """A single image needs more memory than there is."""


class Gauge(Protocol):
    """What a device's memory holds, in bytes."""

    def held(self) -> int:
        """Now."""
        ...

    def peak(self) -> int:
        """At most since `reset`."""
        ...

    def reset(self) -> None:
        """Begin a new `peak`, at what is held now."""
        ...


@dataclass
class _Need:
    """What some work needs beside what was held before it, in bytes."""

    before: int
    peak: int


class Memory:
    """How many images of a kind the device holds at once: known before, or learned from what did not fit.

    note: is told in words what was learned.
    """

    def __init__(self, device: torch.device, note: Callable[[str], None]) -> None:
        self._device, self._note = device, note
        self._most: dict[Kind, int] = {}
        self._learned: Callable[[Kind, int], object] = lambda _kind, _most: None
        self._gauge: Gauge | None = None
        self._needs: list[_Need] = []
        self._peaks: dict[tuple[Kind, int], int] = {}

    def begin_with(self, most: Mapping[Kind, int], learned: Callable[[Kind, int], object]) -> None:
        """Images of each kind that the device is known to hold at once; `learned` is told of fewer."""
        self._most.update(most)
        self._learned = learned

    @contextmanager
    def measuring(self, gauge: Gauge) -> Iterator[dict[tuple[Kind, int], int]]:
        """(kind, number of images) -> bytes that the work on so many needed, filled while this lasts.

        The bytes are those above what was held before; work within other work, as decoding is within
        rendering, counts for itself alone.
        """
        self._gauge, self._peaks = gauge, {}
        try:
            yield self._peaks
        finally:
            self._gauge = None

    def attempt(self, kind: Kind, names: Sequence[str], work: Callable[[], Tensor]) -> Tensor | None:
        """What `work` makes of the images called `names`; None when they have to be cut in halves.

        A number of images that did not fit is not tried again. Raises DoesNotFit when a single one does not.
        """
        count = len(names)
        if count > self._most.get(kind, count):
            return None
        try:
            return work() if self._gauge is None else self._measured(self._gauge, kind, count, work)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Only here, where the error is gone, are the tensors free that its traceback held.
        self._empty_cache()
        if count == 1:
            raise DoesNotFit(
                f"out of memory on {self._device}: {names[0]} does not fit, alone, at "
                f"{kind.width}x{kind.height}; take a smaller size, a dtype of 16 bits or a larger device"
            )
        self._most[kind] = half(count)
        self._learned(kind, half(count))
        self._note(
            f"out of memory on {self._device}: {count} images of {kind.width}x{kind.height} do not fit to "
            f"{kind.doing} at once; from now on at most {half(count)}"
        )
        return None

    def _measured(self, gauge: Gauge, kind: Kind, count: int, work: Callable[[], Tensor]) -> Tensor:
        if self._needs:
            self._needs[-1].peak = max(self._needs[-1].peak, gauge.peak())
        need = _Need(gauge.held(), 0)
        self._needs.append(need)
        gauge.reset()
        try:
            made = work()
            self._peaks[kind, count] = max(need.peak, gauge.peak()) - need.before
        finally:
            self._needs.pop()
            gauge.reset()
        return made

    def _empty_cache(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        elif self._device.type == "mps":
            torch.mps.empty_cache()


def half(count: int) -> int:
    """Half of a count, rounded up."""
    return (count + 1) // 2


def halves(rows: Rows) -> tuple[Rows, Rows]:
    """A batch in two; as they depend on the batch alone, the same images share a half every time."""
    middle = half(len(rows))
    return rows[:middle], rows[middle:]


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says with it that the device's memory, or the machine's, is used up."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # No subclass of others': a trial that failed may quote a prompt that says so.
    said = str(error).lower()
    return type(error) in (RuntimeError, torch.AcceleratorError) and any(
        mark in said for mark in _OUT_OF_MEMORY
    )
