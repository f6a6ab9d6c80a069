"""Long collections freeze what they leave, and what dies frozen is found all the same."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from service import garbage
from service.garbage import ShortPauses

OBJECTS_OF_A_PAGE = 1000
ROUNDS = 20
"""In so many as many objects are made as there are at first."""


class Page:
    """What has a cycle: only the collector finds it dead."""

    def __init__(self) -> None:
        self.me, self.parts = self, [[number] for number in range(OBJECTS_OF_A_PAGE)]


@pytest.fixture
def pauses() -> Iterator[ShortPauses]:
    """Only a test collects: in a process of many objects it would happen at any time."""
    pauses = ShortPauses()
    gc.disable()
    pauses.begin()
    yield pauses
    pauses.end()
    gc.enable()


def looked_at(thing: object) -> bool:
    """Whether the next full collection looks at something."""
    return any(thing is found for found in gc.get_objects())


@pytest.mark.usefixtures("pauses")
def test_what_survived_a_long_collection_is_not_looked_at_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = Page(), Page()
    gc.collect()
    assert looked_at(first), "that was a short one"
    monkeypatch.setattr(garbage, "LONG_SECONDS", 0.0)
    gc.collect()
    assert not looked_at(first)
    assert not looked_at(second)
    assert looked_at(Page())


@pytest.mark.usefixtures("pauses")
def test_what_is_frozen_is_not_counted_at_every_long_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    count = gc.get_freeze_count

    def counted() -> int:
        counts.append(count())
        return counts[-1]

    monkeypatch.setattr(garbage, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(gc, "get_freeze_count", counted)
    pages = []
    for _ in range(5):
        pages.append(Page())
        gc.collect()
    assert not any(looked_at(page) for page in pages)
    assert counts == [], "counting takes as long as the pause that freezing spares"


@pytest.mark.usefixtures("pauses")
def test_what_dies_frozen_is_found_after_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "LONG_SECONDS", 0.0)
    page = Page()
    dead = weakref.ref(page)
    gc.collect()
    del page
    gc.collect()
    assert dead() is not None, "it was not frozen"
    monkeypatch.setattr(garbage, "LONG_SECONDS", 60.0)
    monkeypatch.setattr(garbage, "THAW_SECONDS", -1.0)
    again = ShortPauses()
    again.begin()
    try:
        gc.collect()
        gc.collect()
        assert dead() is None
    finally:
        again.end()


@pytest.mark.usefixtures("pauses")
def test_what_is_frozen_is_at_most_twice_what_lived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "LONG_SECONDS", 0.0)
    floor = gc.get_freeze_count()
    dead = []
    most = 0
    while (frozen := gc.get_freeze_count()) > floor // 2:
        most = max(most, frozen)
        assert most <= 2 * floor
        pages = [Page() for _ in range(floor // (OBJECTS_OF_A_PAGE * ROUNDS))]
        dead.append(weakref.ref(pages[0]))
        gc.collect()
    del pages
    gc.collect()
    assert most > 1.5 * floor
    assert not any(page() for page in dead)
    assert gc.get_freeze_count() < 1.5 * floor
