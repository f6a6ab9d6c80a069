"""Image classifiers of transformers: the probability of one label.

`model` is the folder of a model as `save_pretrained` writes it, with its image processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoring.errors import InputError
from scoring.scorers.base import ScorerSpec
from scoring.scorers.cards import card_of
from scoring.scorers.preprocessing import in_parts
from scoring.scorers.transformers_models import ImageProcessor, load_model
from scoring.scorers.weights import given_path

# aesthetic-shadow-v2 sees 1024 x 1024 pixels: a few at a time.
_IMAGES_AT_ONCE = 8


class Classification:
    """Scores looks alone: the probability of `label`, 0..1. Prompts are ignored.

    The probability is a softmax over all labels, or a sigmoid where the model has one label or says that
    several may be true, as transformers' own pipeline has it. Raises InputError for a folder without such a
    model and for a label that the model does not know.
    """

    differentiable = True

    def __init__(self, name: str, folder: Path, label: str, device: torch.device) -> None:
        from transformers import AutoModelForImageClassification

        self.name = name
        self._model: Any = load_model(AutoModelForImageClassification, folder, device)
        self._processor = ImageProcessor(folder)
        self._index = _index(self._model.config.id2label, label, folder)
        self._device = device

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:  # noqa: ARG002
        return in_parts(images.to(self._device, torch.float32), _IMAGES_AT_ONCE, self._score_part)

    def _score_part(self, images: Tensor) -> Tensor:
        logits: Tensor = self._model(self._processor(images)).logits
        config = self._model.config
        independent = config.problem_type == "multi_label_classification" or config.num_labels == 1
        probabilities = logits.sigmoid() if independent else logits.softmax(dim=-1)
        return probabilities[:, self._index]


def create(spec: ScorerSpec, device: torch.device) -> Classification:
    """The entry point of "cafe-aesthetic", "cafe-waifu", "aesthetic-shadow-v2" and "image-classifier".

    Without `label` it is the one of the scorer's card. Raises InputError where neither names one.
    """
    card = card_of(spec.scorer)
    label = spec.label or (card.label if card else None)
    if label is None:
        raise InputError(f"scorer {spec.scorer!r} needs 'label': whose probability is the score")
    folder = given_path(spec, "the folder of an image classifier of transformers")
    return Classification(spec.scorer, folder, label, device)


def _index(id2label: dict[int, str], label: str, folder: Path) -> int:
    for index, name in id2label.items():
        if name == label:
            return int(index)
    raise InputError(f"{folder}: no label {label!r}; its labels: {', '.join(id2label.values())}")
