"""A page of the gallery costs the same however far one has scrolled."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event

from service.db.gallery import Place, Wanted
from service.db.store import Store


def plan_of_page(store: Store, place: Place) -> list[str]:
    """How SQLite finds a page: a line for each table."""
    said: list[tuple[str, Any]] = []

    def listen(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        said.append((statement, parameters))

    event.listen(store.engine, "before_cursor_execute", listen)
    store.gallery(Wanted(), after=place, limit=120)
    event.remove(store.engine, "before_cursor_execute", listen)
    statement, parameters = next((s, p) for s, p in said if "FROM renders" in s)
    with store.engine.connect() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        return [row[-1] for row in rows]


def test_a_further_page_is_searched_for_and_not_scanned_to(store: Store) -> None:
    plan = plan_of_page(store, Place(500, 3))
    assert any("SEARCH renders" in line and "trial_id<?" in line for line in plan), plan
    assert not any("SCAN" in line for line in plan), plan
