"""A few hundred files of the campaign `python -m benchmarks.fuzz`; hypothesis draws which."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.campaign import Findings, fuzzed, one, run
from tests.fuzz.readers import readers

READERS = readers()


@pytest.mark.parametrize("name", READERS)
@given(number=st.integers(0, 10**9))
@settings(max_examples=15, deadline=None)
def test_a_file_is_read_or_refused_in_words(
    name: str, number: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = Findings()
    folder = tmp_path_factory.mktemp("fuzz")
    one(name, READERS[name], number, fuzzed(name, READERS[name], number), folder, found)
    assert not found.crashes, found.crashes[0][2]
    assert not found.slow


@pytest.mark.parametrize("name", READERS)
def test_what_is_made_wrong_was_right_before(name: str, tmp_path: Path) -> None:
    found = Findings()
    one(name, READERS[name], 0, READERS[name].seeds[0], tmp_path, found)
    assert found.read[name] == 1


@pytest.mark.slow
def test_ten_thousand_files() -> None:
    found = run(READERS, 560, seed=7)
    assert found.inputs >= 10_000
    assert found.crashes == []
    assert found.slow == []
