"""Fuzzed files read one after the other: what came out of it, and how long each took."""

from __future__ import annotations

import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType

from scoring.errors import InputError
from tests.fuzz.mutations import mutated
from tests.fuzz.readers import Reader

MOST_SECONDS = 1.0
"""Of this process's own time: what a loaded machine takes away is not the reader's."""
_ALARM_SECONDS = 30.0


@dataclass
class Findings:
    """read: understood; refused: an InputError; crashes, slow: reader, number of the file, what happened."""

    read: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    crashes: list[tuple[str, int, str]] = field(default_factory=list)
    slow: list[tuple[str, int, float]] = field(default_factory=list)
    slowest: dict[str, float] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        return self.read.total() + self.refused.total() + len(self.crashes)


class Hang(BaseException):
    """No `except Exception` may take it for an error of the file."""


def run(readers: dict[str, Reader], each: int, seed: int = 0, keep: Path | None = None) -> Findings:
    """Give every reader `each` files. keep: folder for the files that crashed one or took too long."""
    findings = Findings()
    with tempfile.TemporaryDirectory(prefix="autombw-fuzz-") as folder:
        for name, reader in readers.items():
            for number in range(each):
                one(name, reader, number, fuzzed(name, reader, number, seed), Path(folder), findings)
                if keep and (findings.crashes or findings.slow):
                    _keep(keep, name, number, fuzzed(name, reader, number, seed), reader, findings)
    return findings


def fuzzed(name: str, reader: Reader, number: int, seed: int = 0) -> bytes:
    """The input of this number, the same each time."""
    draw = Random(f"{seed} {name} {number}")
    return mutated(draw.choice(reader.seeds), draw)


def one(name: str, reader: Reader, number: int, data: bytes, folder: Path, findings: Findings) -> None:
    """Read one file and note what came of it."""
    path = folder / f"input{reader.suffix}"
    path.write_bytes(data)
    started = time.process_time()
    try:
        with _alarm(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(path)
    except InputError:
        findings.refused[name] += 1
    except Hang:
        findings.slow.append((name, number, _ALARM_SECONDS))
        findings.refused[name] += 1
        return
    except BaseException:
        findings.crashes.append((name, number, traceback.format_exc(limit=-4)))
        return
    else:
        findings.read[name] += 1
    seconds = time.process_time() - started
    findings.slowest[name] = max(seconds, findings.slowest.get(name, 0.0))
    if seconds > MOST_SECONDS:
        findings.slow.append((name, number, seconds))


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Hang

    before: Callable[..., object] | int | None = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, _ALARM_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _keep(keep: Path, name: str, number: int, data: bytes, reader: Reader, findings: Findings) -> None:
    last = [(*found[:2],) for found in (*findings.crashes, *findings.slow)]
    if (name, number) in last:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{name.replace(' ', '-')}-{number}{reader.suffix}").write_bytes(data)
