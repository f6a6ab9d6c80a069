"""Checkpoints, single files and diffusers folders: inspect, load, name, write."""

from __future__ import annotations

from optimizer.checkpoints.architectures import (
    ARCHITECTURES,
    TITLES,
    Architecture,
    PredictionType,
    blocks_of,
    build_unet,
    config_folder,
    expected_tensors,
)
from optimizer.checkpoints.inspection import (
    BadValues,
    Inspection,
    changed_at,
    check_pair,
    find_architecture,
    inspect_checkpoint,
    sha256_of,
    size_of,
)
from optimizer.checkpoints.loading import (
    load_component,
    load_components,
    load_unet,
    scheduler_config,
    write_pipeline_config,
)
from optimizer.checkpoints.models import list_models, resolve_model
from optimizer.checkpoints.names import clip_names, single_file_tensors, unet_names, vae_names
from optimizer.checkpoints.opening import open_checkpoint
from optimizer.checkpoints.prediction import Prediction, find_prediction, parse_prediction_type
from optimizer.checkpoints.reading import CheckpointFile, Entry
from optimizer.checkpoints.tokenizer import build_tokenizer
from optimizer.checkpoints.writing import modelspec, write_checkpoint, write_streamed

__all__ = [
    "ARCHITECTURES",
    "TITLES",
    "Architecture",
    "BadValues",
    "CheckpointFile",
    "Entry",
    "Inspection",
    "Prediction",
    "PredictionType",
    "blocks_of",
    "build_tokenizer",
    "build_unet",
    "changed_at",
    "check_pair",
    "clip_names",
    "config_folder",
    "expected_tensors",
    "find_architecture",
    "find_prediction",
    "inspect_checkpoint",
    "list_models",
    "load_component",
    "load_components",
    "load_unet",
    "modelspec",
    "open_checkpoint",
    "parse_prediction_type",
    "resolve_model",
    "scheduler_config",
    "sha256_of",
    "single_file_tensors",
    "size_of",
    "unet_names",
    "vae_names",
    "write_checkpoint",
    "write_pipeline_config",
    "write_streamed",
]
