"""Every reader of strangers' files, given files made wrong: does one crash, or take more than a second?

Goal: at least 10,000 files, no crash (nothing but InputError comes out), none of more than 1 s.
`python -m benchmarks.fuzz [--quick] [--each N] [--seed N] [--shared FOLDER] [--keep FOLDER] [--json FILE]`
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.fuzz.campaign import run
from tests.fuzz.readers import readers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="60 files for each reader")
    parser.add_argument("--each", type=int, default=1_000, help="files for each reader")
    parser.add_argument("--seed", type=int, default=0, help="other files with another number")
    parser.add_argument("--shared", type=Path, help="folder of real histories, recipes and payloads")
    parser.add_argument("--keep", type=Path, help="folder for the files that were not read as they should be")
    parser.add_argument("--only", help="one reader")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    chosen = readers(arguments.shared)
    if arguments.only:
        chosen = {arguments.only: chosen[arguments.only]}
    started = time.monotonic()
    found = run(chosen, 60 if arguments.quick else arguments.each, arguments.seed, arguments.keep)
    table = Table("reader", "read", "refused", "crashes", "over 1 s", "slowest", box=None)
    crashed, slow = (Counter(name for name, *_ in some) for some in (found.crashes, found.slow))
    for name in chosen:
        row = (found.read[name], found.refused[name], crashed[name], slow[name])
        table.add_row(name, *map(str, row), f"{found.slowest.get(name, 0.0):.2f} s")
    console = Console()
    console.print(table)
    console.print(
        f"{found.inputs:,} files in {time.monotonic() - started:.0f} s: {len(found.crashes)} crashes, "
        f"{len(found.slow)} over 1 s"
    )
    for name, number, text in found.crashes:
        console.print(f"\n{name} {number}\n{text}", markup=False, highlight=False)
    for name, number, seconds in found.slow:
        console.print(f"{name} {number}: {seconds:.1f} s", highlight=False)
    if arguments.json:
        figures = {
            "inputs": found.inputs,
            "crashes": len(found.crashes),
            "slow": len(found.slow),
            "slowest": found.slowest,
        }
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(found.crashes or found.slow))


if __name__ == "__main__":
    main()
