"""What was read: the probes, what there is to say about them, and where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from scoring.errors import InputError
from scoring.probes.probe import Probe

MOST_PROBES = 10_000
"""Every trial renders all of them."""


@dataclass(frozen=True)
class Note:
    """Something the user should know of what was read. source: the file, or the place in it."""

    source: str
    text: str


@dataclass(frozen=True)
class Reading:
    """What a reader understood.

    counted_by_a1111: the places of those probes whose `clip_skip` counts as A1111's "Clip skip" does.
    embeddings: names of textual inversions that the images were made with.
    provenance: for each infotext or payload that tells, what it says of the models, under A1111's names.
    """

    probes: tuple[Probe, ...]
    notes: tuple[Note, ...] = ()
    counted_by_a1111: frozenset[int] = frozenset()
    embeddings: tuple[str, ...] = ()
    provenance: tuple[Mapping[str, str], ...] = ()

    def lines(self) -> list[str]:
        """The notes, then the provenance, as lines."""
        made = dict.fromkeys(_described(provenance) for provenance in self.provenance)
        return [*self.note_lines(), *(f"made in A1111 with {text}" for text in made)]

    def note_lines(self) -> list[str]:
        """The notes as lines, each text once, with the places it is about."""
        sources: dict[str, list[str]] = {}
        for note in self.notes:
            sources.setdefault(note.text, []).append(PurePath(note.source).name)
        return [f"{_some(dict.fromkeys(places))}: {text}" for text, places in sources.items()]

    def with_a1111_clip_skip(self, clip_skip: int) -> Reading:
        """The probes counted by A1111 read the text encoder at `clip_skip` instead."""
        probes = [
            probe.model_copy(update={"clip_skip": clip_skip}) if i in self.counted_by_a1111 else probe
            for i, probe in enumerate(self.probes)
        ]
        return replace(self, probes=tuple(probes))


def check_count(count: int, source: str) -> None:
    """Raise InputError, naming `source`, for more probes than a trial could ever render."""
    if count > MOST_PROBES:
        raise InputError(f"{source}: {count:,} probes, and {MOST_PROBES:,} are taken at most; list fewer")


def joined(readings: Sequence[Reading]) -> Reading:
    """One reading of several, in their order."""
    counted: set[int] = set()
    start = 0
    check_count(sum(len(reading.probes) for reading in readings), "probes")
    for reading in readings:
        counted |= {start + i for i in reading.counted_by_a1111}
        start += len(reading.probes)
    return Reading(
        probes=tuple(probe for reading in readings for probe in reading.probes),
        notes=tuple(note for reading in readings for note in reading.notes),
        counted_by_a1111=frozenset(counted),
        embeddings=tuple(dict.fromkeys(name for reading in readings for name in reading.embeddings)),
        provenance=tuple(made for reading in readings for made in reading.provenance),
    )


def _some(places: Iterable[str]) -> str:
    first, *others = places
    if len(others) <= 2:
        return ", ".join([first, *others])
    return f"{first} and {len(others)} more"


def _described(provenance: Mapping[str, str]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in provenance.items())
