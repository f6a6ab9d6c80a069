"""Logging: lines for people, or JSON for machines, each record with the job, node and trial that it is about.

python-json-logger writes the JSON: it is a formatter of the standard library's logging, which all our modules
and every library log to. structlog would be a second way to log beside it.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from scoring.display import printable
from service.settings import Settings

OWN_PACKAGES = ("service", "optimizer", "scoring")
_NOISY = ("alembic", "httpx", "optuna")
_QUIET_SERVERS = ("uvicorn", "uvicorn.error", "uvicorn.access")
_about: contextvars.ContextVar[dict[str, Any]] = contextvars.ContextVar("about", default={})  # noqa: B039


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Name what is worked on (job, node, trial) in every record that is logged in the `with` block.

    Threads begin without it: start theirs with `with_fields`.
    """
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def with_fields(target: Callable[[], None]) -> Callable[[], None]:
    """The function for a thread that logs with the fields of the present one."""
    context = contextvars.copy_context()
    return lambda: context.run(target)


def configure_logging(settings: Settings, *, quiet: bool = False) -> None:
    """Log to stderr as the settings say; quiet: no less than warnings, beside a live display.

    The level is that of our own packages: what libraries say below INFO is of no use to a user.
    """
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    if quiet:
        level = max(level, logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    handler.addFilter(_put_fields)
    logging.basicConfig(level=max(level, logging.INFO), handlers=[handler])
    for own in OWN_PACKAGES:
        logging.getLogger(own).setLevel(level)
    for noisy in (*_NOISY, *_QUIET_SERVERS):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class TextLines(logging.Formatter):
    """One line a record, whatever people put into the names that it tells: no text of theirs can begin a
    line that looks like a record, or speak to the terminal. Lines of a traceback are indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        lines = printable(super().formatException(ei), lines=True).splitlines()
        return "\n".join(f"  {line}" for line in lines)


class JsonLines(JsonFormatter):
    """One JSON object a line: time (UTC), level, logger, message, process, thread, and of what it is about
    job, node and trial; error with the traceback. JSON escapes whatever stands in a text."""

    def __init__(self) -> None:
        super().__init__("%(message)s", json_ensure_ascii=True)

    def add_fields(
        self,
        log_data: dict[str, Any],
        record: logging.LogRecord,
        message_dict: dict[str, Any],  # noqa: ARG002
    ) -> None:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            "thread": record.threadName,
            **getattr(record, "about", {}),
        }
        log_data.update(told)
        if record.exc_info:
            log_data["error"] = self.formatException(record.exc_info)


def _put_fields(record: logging.LogRecord) -> bool:
    record.about = dict(_about.get())
    return True
