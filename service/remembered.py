"""What is worked out of a node for everybody who looks, kept until what it depends on has changed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from service.db.store import Store

T = TypeVar("T")


class Remembered(Generic[T]):
    """One value per node of a store."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Store, dict[int, tuple[Hashable, T]]] = WeakKeyDictionary()

    def get(self, store: Store, node_id: int, stamp: Hashable, work_out: Callable[[], T]) -> T:
        """The node's value, worked out again only where the stamp is another than the last time."""
        values = self._known.setdefault(store, {})
        known = values.get(node_id)
        if known is None or known[0] != stamp:
            known = values[node_id] = (stamp, work_out())
        return known[1]
