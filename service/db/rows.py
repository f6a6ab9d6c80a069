"""Rows of columns as records, without objects that would be watched for changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from service.db.models import Base
from service.db.records import Record

AnyRecord = TypeVar("AnyRecord", bound=Record)


def columns(kind: type[Record], table: type[Base]) -> list[Any]:
    """The columns of a table that a record has, in its order."""
    return [getattr(table, name) for name in kind.model_fields]


def records(kind: type[AnyRecord], rows: Iterable[Iterable[Any]]) -> list[AnyRecord]:
    """Rows whose columns are those of a record, in its order."""
    names = list(kind.model_fields)
    return [kind.model_validate(dict(zip(names, row, strict=True))) for row in rows]
