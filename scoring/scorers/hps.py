"""Human Preference Score v2.1: the cosine of a CLIP that was trained on what people prefer.

Wu et al., "Human Preference Score v2: A Solid Benchmark for Evaluating Human Preferences of Text-to-Image
Synthesis", 2023. The model is open_clip's ViT-H-14; the published file holds its weights as `state_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from scoring.errors import InputError
from scoring.scorers.base import ScorerSpec
from scoring.scorers.clip_score import ClipScore, OpenClip
from scoring.scorers.tensor_files import filled, read_file, state_dict
from scoring.scorers.weights import given_path

ARCHITECTURE = "ViT-H-14"


def create(spec: ScorerSpec, device: torch.device) -> ClipScore:
    """The entry point of the scorer "hps-v2.1": the cosine, -1..1.

    `model`: `HPS_v2.1_compressed.pt`, or the folder that holds it. Raises InputError for a file that is
    missing, unreadable or of another architecture.
    """
    path = given_path(spec, "the file HPS_v2.1_compressed.pt")
    return ClipScore(spec.scorer, _load(path, ARCHITECTURE, device))


def _load(path: Path, architecture: str, device: torch.device) -> OpenClip:
    import open_clip

    held = read_file(path)
    if not isinstance(held, Mapping) or "state_dict" not in held:
        raise InputError(f"{path}: no 'state_dict' in it; give the published file")
    model = open_clip.create_model(architecture, pretrained=None, precision="fp32")
    filled(model, state_dict(held["state_dict"], path), path)
    return OpenClip(model, open_clip.get_tokenizer(architecture), device)
