"""Hooks for OpenTelemetry: spans of a job's node, its trials and their batches.

Only the API is needed, which does nothing by itself. Whoever wants traces installs an SDK and an exporter and
starts the worker under `opentelemetry-instrument`, or configures them where the worker is embedded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from opentelemetry import trace
from opentelemetry.trace import Span

T = TypeVar("T")
_tracer = trace.get_tracer("autombw")


@contextmanager
def span(name: str, **attributes: str | int | float | bool) -> Iterator[Span]:
    """A span below the present one, its attributes named `autombw.<name>`, with the error that leaves it."""
    told = {f"autombw.{key}": value for key, value in attributes.items()}
    with _tracer.start_as_current_span(name, attributes=told) as current:
        yield current


def traced(items: Iterable[T], name: str) -> Iterator[T]:
    """The same items, each made within a span of its own."""
    source = iter(items)
    while True:
        with span(name):
            try:
                item = next(source)
            except StopIteration:
                return
        yield item
