"""What a reader needs besides the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from random import Random, SystemRandom

from scoring.probes.probe import MAX_SEED


@dataclass(frozen=True)
class Places:
    """wildcards: the folder of wildcard files. draws: where a seed of -1 is drawn from."""

    wildcards: Path | None = None
    draws: Random = field(default_factory=SystemRandom)

    def drawn_seed(self, count: int = 1) -> int:
        """A seed such that `count` consecutive ones are seeds."""
        return self.draws.randint(0, MAX_SEED + 1 - count)
