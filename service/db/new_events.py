"""The events of all jobs in the order in which they become visible, for one who asks again and again."""

from __future__ import annotations

from collections import deque

from service.db.watching import LATE, WatchStore


class NewEvents:
    """What happened since the last time one looked. Not for several threads at once."""

    def __init__(self, store: WatchStore) -> None:
        self._store = store
        self._after: int | None = None
        self._seen: deque[int] = deque(maxlen=4 * LATE)

    @property
    def has_begun(self) -> bool:
        """Whether one has looked: nothing that happens from then on is missed."""
        return self._after is not None

    def read(self) -> list[tuple[int, str, str]]:
        """(number, job, kind) of each event since the last time; none the first time. Raises
        OperationalError, and then misses nothing."""
        if self._after is None:
            self._after = self._store.newest_event()
        found = self._store.events_around(self._after)
        # Those that lie around the first look were there before it, as far as anybody can tell.
        new = [event for event in found if event[0] not in self._seen]
        self._seen.extend(number for number, *_ in new)
        self._after = max([self._after, *(number for number, *_ in new)])
        return new
