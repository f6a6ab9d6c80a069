"""What it is worth to search a node further, for whoever watches it or thinks of extending it."""

from __future__ import annotations

from collections.abc import Hashable
from math import log

from pydantic import BaseModel, Field

from optimizer.going_on import Outlook
from optimizer.search import FORESEEING, SearchSettings, ToldTrial, expected_gain
from scoring.scorers.cards import is_voted
from service.db.records import NodeRecord
from service.db.states import NodeKind
from service.db.store import Store
from service.db.watching import SearchStamp
from service.durations import duration
from service.remembered import Remembered

GROWN = 1.01
"""What all trials say together is worked out again when there are so many times of them."""


class GoingOn(BaseModel):
    """What the next trials of a search are expected to gain (docs/stopping.md)."""

    gain: float = Field(description="How far the best score is expected to rise by the next `trials`.")
    trials: int
    next_gain: float = Field(description="The same by the very next trial.")
    seconds: float | None = Field(
        description="Of the device, for the next `trials`, as long as the latest took."
    )
    gain_per_hour: float | None = Field(
        description="Score per hour of the device: what search.until_gain_per_hour is compared with."
    )
    text: str = Field(description="The same in words.")


def going_on(store: Store, node: NodeRecord) -> GoingOn | None:
    """What the next trials of a merge are expected to gain; None while that is not known.

    It is worked out again when a trial is the best, and when there are a hundredth more of them.
    """
    if node.kind is not NodeKind.MERGE:
        return None
    stamp = stamp_of(node, store.search_stamp(node.id))
    return _KNOWN.get(store, node.id, stamp, lambda: _worked_out(store, node))


def stamp_of(node: NodeRecord, stamp: SearchStamp) -> Hashable:
    """What changes when it is time to work it out again. Votes score anew any trial that they are of."""
    search = repr(node.plan["search"])
    if any(is_voted(spec["scorer"]) for spec in node.plan["scorers"]):
        return search, stamp
    return search, stamp.best, int(log(stamp.ended) / log(GROWN)) if stamp.ended else None


_KNOWN: Remembered[GoingOn | None] = Remembered()


def _worked_out(store: Store, node: NodeRecord) -> GoingOn | None:
    told = [
        ToldTrial(
            t.number, t.weights, t.score, estimate=t.expected, choices=t.choices or {}, seconds=t.seconds
        )
        for t in store.ended_trials(node.id, most=FORESEEING)
    ]
    found = expected_gain(SearchSettings.model_validate(node.plan["search"]), told)
    return None if found is None else told_of(found)


def told_of(found: Outlook) -> GoingOn:
    """An outlook with its words."""
    seconds = None if found.seconds is None else found.trials * found.seconds
    text = f"{found.gain:+.4f} expected from the next {found.trials} trials"
    if seconds and found.gain_per_hour is not None:
        text += f", about {duration(seconds)}: {found.gain_per_hour:+.3g} an hour"
    return GoingOn(
        gain=found.gain,
        trials=found.trials,
        next_gain=found.next_gain,
        seconds=seconds,
        gain_per_hour=found.gain_per_hour,
        text=text,
    )
