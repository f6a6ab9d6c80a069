"""Aesthetic Predictor V2.5: a head over the SigLIP embedding of an image.

`model` is the head's file or the folder that holds it under its published name; the SigLIP model lies in the
same folder, with its image processor. Source: discus0434/aesthetic-predictor-v2-5, siglip_v2_5.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from scoring.scorers.base import ScorerSpec
from scoring.scorers.laion import five_layers, load_head, named
from scoring.scorers.preprocessing import in_parts
from scoring.scorers.transformers_models import ImageProcessor, load_model
from scoring.scorers.weights import given_path

_IMAGES_AT_ONCE = 16


class AestheticV25:
    """Scores looks alone: the head over the unit-length pooled embedding, about 1..10. Prompts are ignored.

    Raises InputError for a folder without the SigLIP model and a head that is missing or of another width.
    """

    differentiable = True

    def __init__(self, name: str, head: Path, device: torch.device) -> None:
        from transformers import SiglipVisionModel

        self.name = name
        self._model: Any = load_model(SiglipVisionModel, head.parent, device)
        self._processor = ImageProcessor(head.parent)
        # The published file counts a dropout after each layer but the last.
        layers = five_layers(self._model.config.hidden_size, (0, 2, 4, 6, 8))
        self._head = load_head(head, named({"scoring_head": layers})).to(device)
        self._device = device

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:  # noqa: ARG002
        return in_parts(images.to(self._device, torch.float32), _IMAGES_AT_ONCE, self._score_part)

    def _score_part(self, images: Tensor) -> Tensor:
        embedding = self._model(pixel_values=self._processor(images)).pooler_output
        scores: Tensor = self._head(normalize(embedding, dim=-1)).squeeze(-1)
        return scores


def create(spec: ScorerSpec, device: torch.device) -> AestheticV25:
    """The entry point of the scorer "aesthetic-v2-5"."""
    head = given_path(spec, "the file aesthetic_predictor_v2_5.pth, in the folder of its SigLIP model")
    return AestheticV25(spec.scorer, head, device)
