"""What a checkpoint of components from several files will be, told from their headers beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizer.checkpoints.architectures import Architecture
from optimizer.checkpoints.bare import open_component
from optimizer.checkpoints.inspection import (
    Inspection,
    broken,
    count_bad_values,
    prediction_notes,
)
from optimizer.checkpoints.parts import PREFIXES, Component, component_of
from optimizer.checkpoints.prediction import Prediction, find_prediction
from optimizer.checkpoints.reading import CheckpointFile
from optimizer.components import open_sources


@dataclass(frozen=True)
class Foreseen:
    """A checkpoint that is not written yet. notes: what people should know of it."""

    inspection: Inspection
    notes: tuple[str, ...]


def foresee(name: str, sources: Mapping[Component, Sequence[Path]]) -> Foreseen:
    """What `optimizer.components.join` makes of these files. Raises InputError where it would refuse them.

    The inspection has no hash and no count of NaN and Inf.
    """
    with open_sources(sources) as (architecture, files):
        first, *others = files["unet"]
        prediction = _prediction(first, architecture)
        notes = [
            note
            for other in others
            for note in prediction_notes(
                first.path.name, prediction, other.path.name, _prediction(other, architecture)
            )
        ]
        held = [
            file.entries[key]
            for component, (file, *_) in files.items()
            for key in file.entries
            if component_of(key) == component
        ]
        inspection = Inspection(
            name=name,
            size=sum(entry.numel * entry.dtype.itemsize for entry in held),
            architecture=architecture,
            prediction_type=prediction.type,
            prediction_known_by=prediction.known_by,
            prediction_assumed=prediction.assumed,
            dtypes={},
            tensors=len(held),
            parameters=sum(entry.numel for entry in held),
            ema_keys=0,
            missing_keys=[],
            extra_keys=[],
            bad_values=None,
            sha256=None,
            short_hash=None,
            legacy_hash="",
            metadata={},
        )
        return Foreseen(inspection, tuple(notes))


def parts_size(sources: Mapping[Component, Sequence[Path]], architecture: Architecture) -> int:
    """Bytes of components that go into a checkpoint of this architecture. Raises InputError where they do not
    fit it."""
    with open_sources(sources, architecture) as (_, files):
        return sum(
            entry.numel * entry.dtype.itemsize
            for component, (file, *_) in files.items()
            for key, entry in file.entries.items()
            if component_of(key) == component
        )


def check_finite(path: Path, component: Component) -> None:
    """Read a component of a file. Raises InputError where it has NaN or Inf, which no merge survives."""
    with open_component(path) as file:
        for part, bad in count_bad_values(file, PREFIXES[component]).items():
            raise broken(path.name, part, bad)


def _prediction(file: CheckpointFile, architecture: Architecture) -> Prediction:
    return find_prediction(architecture, file.path.stem, file.metadata, file.entries.keys())
