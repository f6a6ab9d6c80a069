"""The load benchmark, small: a server, a worker, pages and readers at once. Nothing may fail.

The figures are in docs/load.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.load import measure, show

CLIENTS, RATE, SECONDS = 20, 50.0, 4.0


@pytest.mark.slow
def test_pages_and_readers_are_served_beside_a_worker_without_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measure(
        tmp_path, renders=2_000, steps=2, rates=[RATE], clients=CLIENTS, seconds=SECONDS, streams=2, alone=1.0
    )
    (part,) = found["stretches"]
    assert part["all"]["errors"] == 0, part["kinds"]
    assert part["all"]["reads"] == RATE * SECONDS
    assert part["pages"]["connected"] == CLIENTS
    assert part["pages"]["failed"] == {}
    assert part["pages"]["lost"] == 0
    assert part["pages"]["messages"] > CLIENTS
    assert part["streams"]["broken"] == 0
    show(found)
    assert "p99 of all reads" in capsys.readouterr().out
