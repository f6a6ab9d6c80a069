"""Items made ahead in a thread, and the time in which two things ran."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from optimizer.ahead import Stopwatch, ahead, seconds_of_both

WAIT = 5.0


def test_all_items_come_in_order_in_a_thread_and_without() -> None:
    with ThreadPoolExecutor(1) as executor:
        assert list(ahead(iter(range(7)), executor)) == list(ahead(iter(range(7)), None)) == list(range(7))
        assert list(ahead(iter(()), executor)) == []


def test_the_next_item_is_made_while_this_one_is_used_and_none_after_it() -> None:
    made = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    with ThreadPoolExecutor(1) as executor:
        for number in ahead(items(), executor):
            if number + 1 < len(made):
                assert made[number + 1].wait(WAIT)
            assert [event.is_set() for event in made].count(True) == min(number + 2, len(made))


def test_without_a_thread_nothing_is_made_before_it_is_asked_for() -> None:
    made: list[int] = []
    items = ahead((made.append(number) or number for number in range(3)), None)  # type: ignore[func-returns-value]
    assert (next(items), made) == (0, [0])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_comes_after_the_items_before_it(error: type[BaseException]) -> None:
    def items() -> Iterator[int]:
        yield 0
        yield 1
        raise error

    seen: list[int] = []
    with ThreadPoolExecutor(1) as executor, pytest.raises(error):
        seen.extend(ahead(items(), executor))
    assert seen == [0, 1]


def test_closing_waits_for_the_item_that_is_being_made_and_drops_its_error() -> None:
    begun, go_on, ended = (threading.Event() for _ in range(3))

    def items() -> Iterator[int]:
        yield 0
        begun.set()
        go_on.wait(WAIT)
        ended.set()
        raise ValueError

    with ThreadPoolExecutor(1) as executor:
        found = ahead(items(), executor)
        assert next(found) == 0
        assert begun.wait(WAIT)
        threading.Timer(0.05, go_on.set).start()
        found.close()
        assert ended.is_set()


def test_the_seconds_in_which_both_ran() -> None:
    assert seconds_of_both([(0, 2), (3, 5)], [(1, 4), (6, 7)]) == 2
    assert seconds_of_both([(0, 1)], [(1, 2)]) == 0
    watch = Stopwatch()
    watch.stop()
    assert (watch.spans, watch.seconds) == ([], 0)
    watch.start()
    watch.stop()
    ((start, end),) = watch.spans
    assert watch.seconds == end - start >= 0
