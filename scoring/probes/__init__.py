"""Probes: the images that every trial renders, and the readers and writers of what describes them."""

from scoring.probes.files import probe_data, read_probe_file
from scoring.probes.forms import read_probes
from scoring.probes.infotext import to_infotext
from scoring.probes.places import Places
from scoring.probes.probe import (
    MAX_SEED,
    DynamicThresholding,
    FreeU,
    FreeUStage,
    Hires,
    Probe,
)
from scoring.probes.reading import Note, Reading, joined

__all__ = [
    "MAX_SEED",
    "DynamicThresholding",
    "FreeU",
    "FreeUStage",
    "Hires",
    "Note",
    "Places",
    "Probe",
    "Reading",
    "joined",
    "probe_data",
    "read_probe_file",
    "read_probes",
    "to_infotext",
]
