"""PickScore: what people pick for a prompt.

Kirstain et al., "Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation", 2023. The
model is a CLIP ViT-H/14 of transformers; its score is the cosine times its own scale, exp(logit_scale) = 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from scoring.scorers.base import ScorerSpec
from scoring.scorers.clip_score import ClipScore, warn_of_cut
from scoring.scorers.preprocessing import in_parts
from scoring.scorers.transformers_models import ImageProcessor, load_model, load_tokenizer
from scoring.scorers.weights import given_path

_IMAGES_AT_ONCE = 16


class TransformersClip:
    """A CLIP of transformers from a local folder, offline, frozen, in float32.

    The folder holds the model, its image processor and its tokenizer. scale: exp(logit_scale).
    Raises InputError for a folder that lacks one of them.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import CLIPModel

        self._model: Any = load_model(CLIPModel, folder, device)
        self._processor = ImageProcessor(folder)
        self._tokenizer = load_tokenizer(folder)
        self._device = device
        self.scale = float(self._model.logit_scale.exp())

    def embed_images(self, images: Tensor) -> Tensor:
        """Embeddings of unit length (N, width) of images (N, 3, H, W) in [0, 1]; differentiable."""
        return in_parts(images.to(self._device, torch.float32), _IMAGES_AT_ONCE, self._embed_part)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of unit length (N, width). A text that is too long is judged by its beginning, and a
        warning says so."""
        longest = self._model.config.text_config.max_position_embeddings
        for text in texts:
            if len(self._tokenizer(text).input_ids) > longest:
                warn_of_cut(text)
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self._device)
        with torch.inference_mode(False), torch.no_grad():
            read = self._model.text_model(tokens.input_ids, attention_mask=tokens.attention_mask)
            return normalize(self._model.text_projection(read.pooler_output), dim=-1)

    def _embed_part(self, images: Tensor) -> Tensor:
        seen = self._model.vision_model(pixel_values=self._processor(images))
        return normalize(self._model.visual_projection(seen.pooler_output), dim=-1)


def create(spec: ScorerSpec, device: torch.device) -> ClipScore:
    """The entry point of the scorer "pickscore", about 15..25."""
    clip = TransformersClip(given_path(spec, "the folder of PickScore's CLIP model"), device)
    return ClipScore(spec.scorer, clip, clip.scale)
