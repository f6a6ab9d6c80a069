"""How far checkpoints lie from each other: by block, by component, as a whole UNet."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optimizer.blocks import block_of
from optimizer.checkpoints.architectures import Architecture, blocks_of, expected_tensors
from optimizer.checkpoints.hashes import HashCache, write_json
from optimizer.checkpoints.parts import expected_part
from optimizer.checkpoints.reading import CheckpointFile
from optimizer.checkpoints.unets import open_unets
from optimizer.means import keep_to_one_core
from scoring.errors import InputError

# Numbers of each file that are compared at a time: as float64 they stay in a core's cache.
_CHUNK = 1 << 16
# Parts of the work that threads share.
_SHARES = 4
# A cached file of another version is computed again.
_VERSION = 1

Matrix = NDArray[np.float64]
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Sums:
    """Of the numbers x and y of two files in one part: sum (x - y)^2, sum xy, sum x^2, sum y^2."""

    square: float
    dot: float
    norm_a: float
    norm_b: float

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.square + other.square,
            self.dot + other.dot,
            self.norm_a + other.norm_a,
            self.norm_b + other.norm_b,
        )

    @property
    def l2(self) -> float:
        """The length of the difference, in the unit of the weights."""
        return math.sqrt(self.square)

    @property
    def cosine(self) -> float:
        """The cosine of the angle between them, in [-1, 1]; of nothing but zeros, 1 if both are, else 0."""
        if not (self.norm_a and self.norm_b):
            return float(self.norm_a == self.norm_b)
        return max(-1.0, min(1.0, self.dot / math.sqrt(self.norm_a * self.norm_b)))


Pair = dict[str, Sums]
"""Part (a block, `text_encoder`, `vae`) -> sums. A part that a file does not hold whole is missing."""


@dataclass(frozen=True)
class Distances:
    """Every two of N checkpoints of one architecture. `pairs` has (i, j) for i < j."""

    architecture: Architecture
    count: int
    pairs: Mapping[tuple[int, int], Pair]

    def parts(self) -> tuple[str, ...]:
        """The blocks, then `unet`, `text_encoder` and `vae` where every file holds them."""
        held = [set(pair) for pair in self.pairs.values()]
        components = tuple(part for part in ("text_encoder", "vae") if all(part in pair for pair in held))
        return (*blocks_of(self.architecture), "unet", *components)

    def l2(self, part: str) -> Matrix:
        """The L2 distances in a part: (N, N), symmetric, 0 on the diagonal. InputError: no such part."""
        return self._matrix(part, "l2", 0.0)

    def cosine(self, part: str) -> Matrix:
        """The cosines in a part: (N, N), symmetric, 1 on the diagonal. InputError: no such part."""
        return self._matrix(part, "cosine", 1.0)

    def _matrix(self, part: str, measure: str, same: float) -> Matrix:
        if part not in self.parts():
            raise InputError(f"no distance in {part!r}; there are {', '.join(self.parts())}")
        found = np.full((self.count, self.count), same)
        for (i, j), pair in self.pairs.items():
            found[i, j] = found[j, i] = getattr(self._sums(pair, part), measure)
        return found

    def _sums(self, pair: Pair, part: str) -> Sums:
        blocks = blocks_of(self.architecture) if part == "unet" else (part,)
        return sum((pair[block] for block in blocks), Sums(0.0, 0.0, 0.0, 0.0))


def unet_distances(paths: Sequence[Path]) -> Matrix:
    """The L2 distance between the UNets of every two of N checkpoints of one architecture.

    The root of the summed squares of differences over all weights, so 0 for equal UNets and in the unit of
    the weights. See `distances_between`. Returns an array (N, N), symmetric, in the order of `paths`. Raises
    InputError for fewer than two files and for files that do not fit each other.
    """
    with open_unets(paths) as (architecture, files):
        wanted = list(combinations(range(len(files)), 2))
        return Distances(architecture, len(files), _compare(architecture, files, wanted, ("unet",))).l2(
            "unet"
        )


def distances_between(
    paths: Sequence[Path], cache: Path | None = None, progress: Progress | None = None
) -> Distances:
    """Sums over every block and component of every two of N checkpoints of one architecture.

    Every file is read once, side by side with the others, in chunks: memory does not grow with the files.
    Differences are taken and summed in float64, so near-identical models lose no digits, as they would in a
    matrix of products. cache: a folder with one JSON file a pair, named by the two sha256; what is there is
    not computed again. progress: told what is done and the share of it, from 0 to 1. Raises InputError for
    fewer than two files and for files that do not fit each other.
    """
    tell = progress or (lambda _words, _share: None)
    with open_unets(paths) as (architecture, files):
        every = list(combinations(range(len(files)), 2))
        known: dict[tuple[int, int], Pair] = {}
        digests = []
        if cache is not None:
            hashes = HashCache(cache)
            for number, path in enumerate(paths):
                tell("hashes the files", number / len(paths))
                digests.append(hashes.sha256(path))
            for i, j in every:
                pair = _cached(cache, digests[i], digests[j])
                if pair is not None:
                    known[i, j] = pair
        missing = [pair for pair in every if pair not in known]
        fresh = _compare(architecture, files, missing, progress=tell)
        if cache is not None:
            for (i, j), pair in fresh.items():
                _keep(cache, digests[i], digests[j], pair)
        return Distances(architecture, len(files), {pair: {**known, **fresh}[pair] for pair in every})


def _compare(
    architecture: Architecture,
    files: Sequence[CheckpointFile],
    wanted: Sequence[tuple[int, int]],
    components: Sequence[str] = ("unet", "text_encoder", "vae"),
    progress: Progress | None = None,
) -> dict[tuple[int, int], Pair]:
    """The sums of these pairs, every file that is in one read once."""
    used = sorted({index for pair in wanted for index in pair})
    if not used:
        return {}
    place = {index: number for number, index in enumerate(used)}
    rows = torch.tensor([[place[i], place[j]] for i, j in wanted]).T
    compared = [files[index] for index in used]
    found: dict[tuple[int, int], Pair] = {pair: {} for pair in wanted}
    with ThreadPoolExecutor(min(_SHARES, os.cpu_count() or 1), "distances", keep_to_one_core) as pool:
        reader = _Rows(compared, pool)
        parts = _keys_of_parts(architecture, components)
        for number, (part, keys) in enumerate(parts.items()):
            if progress is not None:
                progress("compares the weights", number / len(parts))
            if not all(key in file.entries for key in keys for file in compared):
                continue  # a text encoder or VAE; a UNet is whole, or the file was not opened
            squares, products = reader.sums(keys, rows)
            for (i, j), square in zip(wanted, squares.tolist(), strict=True):
                a, b = place[i], place[j]
                dot, norm_a, norm_b = products[a, b], products[a, a], products[b, b]
                found[i, j][part] = Sums(square, float(dot), float(norm_a), float(norm_b))
    return found


class _Rows:
    """The same numbers of several files as rows of a matrix, chunk by chunk, on several threads."""

    def __init__(self, files: Sequence[CheckpointFile], pool: Executor) -> None:
        self.files = files
        self._pool = pool

    def sums(self, keys: Sequence[str], pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Over these tensors: sum (x - y)^2 of each pair of rows (2, P), and sum xy of every two files."""
        chunks = [
            (key, start, min(start + _CHUNK, numel))
            for key in keys
            for numel in [self.files[0].entries[key].numel]
            for start in range(0, numel, _CHUNK)
        ]
        # The same shares on every machine, so that the sums are the same to the last bit.
        shares = [chunks[first::_SHARES] for first in range(_SHARES)]
        done = list(self._pool.map(lambda share: self._share(share, pairs), shares))
        squares, products = done[0]
        for more_squares, more_products in done[1:]:
            squares, products = squares + more_squares, products + more_products
        return squares, products

    def _share(self, chunks: Sequence[tuple[str, int, int]], pairs: Tensor) -> tuple[Tensor, Tensor]:
        buffer = torch.empty(8 * _CHUNK, dtype=torch.uint8)
        single, memory = torch.empty(_CHUNK), torch.empty(len(self.files), _CHUNK, dtype=torch.float64)
        space = torch.empty(_CHUNK, dtype=torch.float64)
        squares = torch.zeros(pairs.shape[1], dtype=torch.float64)
        products = torch.zeros(len(self.files), len(self.files), dtype=torch.float64)
        for key, start, stop in chunks:
            rows = memory[:, : stop - start]
            for row, file in zip(rows, self.files, strict=True):
                numbers = file.flat(key, start, stop, buffer)
                # Half precision to double in one step has no fast kernel; through fp32 it is as exact.
                half = numbers.dtype.itemsize == 2
                row.copy_(single[: stop - start].copy_(numbers) if half else numbers)
            products += rows @ rows.T
            for number, (i, j) in enumerate(pairs.T.tolist()):
                difference = torch.sub(rows[i], rows[j], out=space[: stop - start])
                squares[number] += torch.dot(difference, difference)
        return squares, products


def _keys_of_parts(architecture: Architecture, components: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    if "unet" in components:
        found |= {block: [] for block in blocks_of(architecture)}
        for key in expected_tensors(architecture).unet:
            found[str(block_of(key))].append(key)
    if "text_encoder" in components:
        found["text_encoder"] = list(expected_part(architecture, "text_encoder"))
    if "vae" in components:
        found["vae"] = list(expected_part(architecture, "vae"))
    return found


def _pair_file(cache: Path, a: str, b: str) -> Path:
    return cache / "distances" / f"{min(a, b)}-{max(a, b)}.json"


def _cached(cache: Path, a: str, b: str) -> Pair | None:
    try:
        stored = json.loads(_pair_file(cache, a, b).read_text())
        if stored["version"] != _VERSION:
            return None
        pair = {part: Sums(*(float(number) for number in sums)) for part, sums in stored["parts"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        # Not there, or damaged: as good as none.
        return None
    return pair if a <= b else _turned(pair)


def _keep(cache: Path, a: str, b: str, pair: Pair) -> None:
    ordered = pair if a <= b else _turned(pair)
    parts = {part: [s.square, s.dot, s.norm_a, s.norm_b] for part, s in ordered.items()}
    write_json(_pair_file(cache, a, b), {"version": _VERSION, "parts": parts})


def _turned(pair: Pair) -> Pair:
    return {part: Sums(s.square, s.dot, s.norm_b, s.norm_a) for part, s in pair.items()}
