"""The probes of a job: read from what its request says, checked against the folders and the models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from optimizer.checkpoints.architectures import TITLES, Architecture
from scoring.errors import InputError
from scoring.probes import Note, Places, Reading, joined, read_probe_file, read_probes
from scoring.prompts.embeddings import EMBEDDING_SUFFIXES
from service.folders import inside
from service.jobs import ProbesSpec
from service.settings import Settings

# A1111 reads their text encoders at the last layer but one, whatever its clip skip says. That is the last one
# that SD2's has here.
_WITHOUT_CLIP_SKIP = ("sd2", "sdxl")


class ProbeSource:
    """Where a job's probes come from.

    job: the job's name. architecture: of its leaves. What is drawn is drawn from the job's name and the
    field's: a request that is planned again, for one more leaf or as a clone, has the same probes.
    """

    def __init__(self, job: str, settings: Settings, architecture: Architecture) -> None:
        self._job, self._settings, self._architecture = job, settings, architecture

    def read(self, spec: ProbesSpec, field: str) -> Reading:
        """The probes of one field of the request. Raises InputError that names the field."""
        places = Places(self._settings.wildcards_dir, Random(f"{self._job}\n{field}"))
        if isinstance(spec, list):
            items = [self._item(item, f"{field}[{i}]", places) for i, item in enumerate(spec)]
        else:
            items = [self._item(spec, field, places)]
        reading = joined(items)
        if not reading.probes:
            raise InputError(f"{field}: no probes in it; list at least one")
        _check_embeddings(reading.embeddings, self._settings.embeddings_dir, field)
        return _with_our_clip_skip(reading, self._architecture, field)

    def _item(self, item: object, field: str, places: Places) -> Reading:
        if isinstance(item, str):
            return read_probe_file(inside(item, self._settings.probes_dir, field), places)
        return read_probes(item, field, places)


def _check_embeddings(names: Sequence[str], folder: Path, field: str) -> None:
    """Raise InputError unless every embedding that an image was made with is there."""
    known = {path.stem.lower() for path in folder.rglob("*") if path.suffix.lower() in EMBEDDING_SUFFIXES}
    missing = [name for name in names if name.lower() not in known]
    if missing:
        raise InputError(
            f"{field}: made with embeddings that are not in {folder}: {', '.join(missing)}; put their "
            "files there"
        )


def _with_our_clip_skip(reading: Reading, architecture: Architecture, field: str) -> Reading:
    skipping = any(reading.probes[i].clip_skip != 1 for i in reading.counted_by_a1111)
    if architecture not in _WITHOUT_CLIP_SKIP or not skipping:
        return reading
    note = Note(field, f"Clip skip is 1: A1111 passes over its setting with {TITLES[architecture]}")
    return replace(reading.with_a1111_clip_skip(1), notes=(*reading.notes, note))
