"""How often somebody may ask: a bucket of requests for each that fills with time."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

OWNERS = 10_000


@dataclass(frozen=True)
class Allowance:
    """What is left. wait: seconds until one more is allowed, 0 where one is now."""

    left: int
    wait: float

    @property
    def retry_after(self) -> str:
        """Whole seconds, for the header."""
        return str(max(1, math.ceil(self.wait)))


class Buckets:
    """Token buckets in this process. rate: requests per second in the long run; size: at once."""

    def __init__(self, rate: float, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.size = rate, size
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, owner: str) -> Allowance:
        """Take one request from the owner's bucket; nothing is taken from an empty one."""
        level = self._level(owner)
        if level < 1:
            return Allowance(0, (1 - level) / self.rate)
        self._keep(owner, level - 1)
        return Allowance(int(level - 1), 0.0)

    def look(self, owner: str) -> Allowance:
        """What `take` would answer, with nothing taken."""
        level = self._level(owner)
        return Allowance(int(level), 0.0 if level >= 1 else (1 - level) / self.rate)

    def _level(self, owner: str) -> float:
        at, level = self._levels.get(owner, (self._clock(), float(self.size)))
        return min(float(self.size), level + (self._clock() - at) * self.rate)

    def _keep(self, owner: str, level: float) -> None:
        self._levels[owner] = (self._clock(), level)
        self._levels.move_to_end(owner)
        if len(self._levels) > OWNERS:
            self._levels.popitem(last=False)


class GuessLimit:
    """How many wrong tokens are listened to: of one address, and of all together."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._each = Buckets(10 / 60, 10, clock)
        self._all = Buckets(2.0, 120, clock)

    def wait(self, address: str) -> Allowance:
        """Whether the address may try now."""
        return max(self._each.look(address), self._all.look(""), key=lambda allowance: allowance.wait)

    def count(self, address: str) -> None:
        """Count a wrong one."""
        self._each.take(address)
        self._all.take("")
