"""Probes: the images that every trial renders, and the readers of the files that list them."""

from scoring.probes.probe import (
    MAX_SEED,
    DynamicThresholding,
    FreeU,
    FreeUStage,
    Hires,
    Probe,
)
from scoring.probes.readers import expand_probes, load_probes

__all__ = [
    "MAX_SEED",
    "DynamicThresholding",
    "FreeU",
    "FreeUStage",
    "Hires",
    "Probe",
    "expand_probes",
    "load_probes",
]
