"""How fast two checkpoints are compared: L2 and cosine of all 27 blocks, against reading both files once.

Two files with random weights of the size of SD1.5's UNet (860 M parameters, fp16, 1.7 GB each; `--quick`: of
the zoo's). Reading is `cat` of both into /dev/null, in turn with the comparison, round by round. Then the
same pair once more out of the cache, the hashes of both files known.

    python -m benchmarks.distances [--quick] [--rounds N] [--folder DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.uniform import read_all, write_random
from optimizer.distances import distances_between


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="files of the zoo's size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files are made and removed; 4 GB")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = measure(Path(folder), "emoji" if arguments.quick else "sd1", arguments.rounds)
    print_table(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(folder: Path, architecture: str, rounds: int) -> dict[str, object]:
    """Seconds of reading and of comparing, and their ratio, round by round."""
    pair = [write_random(folder / f"{seed}.safetensors", architecture, seed) for seed in range(2)]
    read, compared = [], []
    distances_between([pair[0], pair[0]])  # the architecture is built once a process
    for _ in range(rounds):
        read.append(timed(lambda: read_all(pair)))
        compared.append(timed(lambda: distances_between(pair)))
    distances_between(pair, folder / "cache")
    return {
        "gb_each": pair[0].stat().st_size / 1e9,
        "rounds": rounds,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "read_seconds": statistics.median(read),
        "pair_seconds": statistics.median(compared),
        "cached_seconds": timed(lambda: distances_between(pair, folder / "cache")),
        "over_reading": statistics.median(a / b for a, b in zip(compared, read, strict=True)),
    }


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def print_table(figures: Mapping[str, object]) -> None:
    seconds = float(str(figures["pair_seconds"]))
    print(
        f"two files of {figures['gb_each']:.2f} GB, {figures['cores']} cores, load {figures['load']:.1f}, "
        f"rounds: {figures['rounds']}"
    )
    print(f"reading both       {figures['read_seconds']:8.3f} s")
    print(f"comparing them     {seconds:8.3f} s, {1 / seconds:.2f} pairs/s")
    print(f"out of the cache   {figures['cached_seconds']:8.3f} s")
    print(f"comparing takes {figures['over_reading']:.1f} x reading both files once")


if __name__ == "__main__":
    main()
