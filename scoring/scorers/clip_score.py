"""CLIP score: how well an image shows its prompt, by an open_clip model on this machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from scoring.errors import InputError
from scoring.hub import hint
from scoring.scorers.base import ScorerSpec
from scoring.scorers.preprocessing import as_open_clip, in_parts
from scoring.scorers.weights import given_path

_IMAGES_AT_ONCE = 32
_TEXTS_AT_ONCE = 128
_CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_log = logging.getLogger(__name__)


class Embedder(Protocol):
    """Puts images and texts into one space."""

    def embed_images(self, images: Tensor) -> Tensor:
        """Embeddings of unit length (N, width) of images (N, 3, H, W) in [0, 1]; differentiable."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of unit length (N, width), without gradients."""
        ...


class OpenClip:
    """An open_clip model, frozen, in float32, on `device`."""

    def __init__(self, model: Any, tokenizer: Any, device: torch.device) -> None:
        import open_clip  # here, because it takes seconds and listing scorers should not

        self._model: Any = model.to(device).float().eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._preprocess: Mapping[str, Any] = open_clip.get_model_preprocess_cfg(model)
        self._device = device

    def embed_images(self, images: Tensor) -> Tensor:
        """Embeddings of unit length (N, width) of images (N, 3, H, W) in [0, 1]; differentiable."""
        return in_parts(images.to(self._device, torch.float32), _IMAGES_AT_ONCE, self._embed_part)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of unit length (N, width). A text that is too long is judged by its beginning, and a
        warning says so."""
        tokens = self._tokenizer(list(texts))
        for text, row in zip(
            texts, self._tokenizer(list(texts), context_length=4 * tokens.shape[1]), strict=True
        ):
            if row[tokens.shape[1] :].any():
                warn_of_cut(text)
        with torch.inference_mode(False), torch.no_grad():
            return in_parts(
                tokens.to(self._device),
                _TEXTS_AT_ONCE,
                lambda part: normalize(self._model.encode_text(part), dim=-1),
            )

    def _embed_part(self, images: Tensor) -> Tensor:
        return normalize(self._model.encode_image(as_open_clip(images, self._preprocess)), dim=-1)


class Backbone(OpenClip):
    """An open_clip model from a local folder, offline.

    The folder holds `open_clip_config.json` and `open_clip_model.safetensors` (or the older
    `open_clip_pytorch_model.bin`). width: of its embeddings.
    Raises InputError for a folder without them or with a broken one.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        import open_clip

        self.width = _check_folder(folder)
        try:
            model = open_clip.create_model(f"local-dir:{folder}", device=device, precision="fp32")
            tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        except Exception as error:  # open_clip, torch and safetensors raise a dozen unrelated kinds
            raise InputError(f"{folder}: open_clip can't load this model: {error}{hint()}") from error
        super().__init__(model, tokenizer, device)


class ClipScore:
    """`scale` times the cosine of an image's and its prompt's embedding."""

    differentiable = True

    def __init__(self, name: str, embedder: Embedder, scale: float = 1.0) -> None:
        self.name = name
        self._embedder = embedder
        self._scale = scale
        self._texts: dict[str, Tensor] = {}

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Raises ValueError unless there is one prompt an image."""
        check_prompts(images, prompts)
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts]
        if new:
            self._texts.update(zip(new, self._embedder.embed_texts(new), strict=True))
        wanted = torch.stack([self._texts[prompt] for prompt in prompts])
        return self._scale * (self._embedder.embed_images(images) * wanted).sum(dim=-1)


def create(spec: ScorerSpec, device: torch.device) -> ClipScore:
    """The entry point of the scorer "clip": the cosine, -1..1. `model`: a folder as `Backbone` says."""
    return ClipScore(spec.scorer, Backbone(given_path(spec, "the folder of an open_clip model"), device))


def check_prompts(images: Tensor, prompts: Sequence[str]) -> None:
    """Raise ValueError unless there is one prompt an image."""
    if len(prompts) != len(images):
        raise ValueError(f"{len(images)} images with {len(prompts)} prompts")


def warn_of_cut(text: str) -> None:
    """Log that a prompt is longer than the model reads."""
    _log.warning("CLIP reads only the beginning of the prompt %r", text)


def _check_folder(folder: Path) -> int:
    """The width of the embeddings, when the folder holds what it must."""
    remedy = f"give a folder with {_CONFIG} and {_WEIGHTS[0]}"
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; {remedy}")
    config = folder / _CONFIG
    if not config.is_file():
        raise InputError(f"{folder}: no {_CONFIG} in it; {remedy}")
    try:
        parsed = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{config}: not JSON: {error}; {remedy}") from error
    try:
        width = int(parsed["model_cfg"]["embed_dim"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{config}: no 'model_cfg' with an 'embed_dim' in it; {remedy}") from error
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise InputError(f"{folder}: no weights in it; {remedy}")
    return width
