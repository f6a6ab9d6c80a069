"""CLIP score: how well an image shows its prompt, by an open_clip model on this machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize, pad

from scoring.errors import InputError
from scoring.scorers.base import ScorerSpec

_IMAGES_AT_ONCE = 32
_TEXTS_AT_ONCE = 128
_CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_log = logging.getLogger(__name__)


class Backbone:
    """An open_clip model from a local folder, offline, frozen, in float32.

    The folder holds `open_clip_config.json` and `open_clip_model.safetensors` (or the older
    `open_clip_pytorch_model.bin`). width: of its embeddings.
    Raises InputError for a folder without them or with a broken one.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        import open_clip  # here, because it takes seconds and listing scorers should not

        self.width = _check_folder(folder)
        try:
            self._model: Any = open_clip.create_model(f"local-dir:{folder}", device=device, precision="fp32")
            self._tokenizer: Any = open_clip.get_tokenizer(f"local-dir:{folder}")
        except Exception as error:  # open_clip, torch and safetensors raise a dozen unrelated kinds
            raise InputError(f"{folder}: open_clip can't load this model: {error}") from error
        self._model.eval().requires_grad_(False)
        self._preprocess: Mapping[str, Any] = open_clip.get_model_preprocess_cfg(self._model)
        self._device = device

    def embed_images(self, images: Tensor) -> Tensor:
        """Embeddings of unit length (N, width) of images (N, 3, H, W) in [0, 1]; differentiable."""
        ready = preprocess(images.to(self._device, torch.float32), self._preprocess)
        parts = [ready[i : i + _IMAGES_AT_ONCE] for i in range(0, len(ready), _IMAGES_AT_ONCE)]
        return torch.cat([normalize(self._model.encode_image(part), dim=-1) for part in parts])

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of unit length (N, width). A text that is too long is judged by its beginning, and a
        warning says so."""
        tokens = self._tokenizer(list(texts))
        for text, row in zip(
            texts, self._tokenizer(list(texts), context_length=4 * tokens.shape[1]), strict=True
        ):
            if row[tokens.shape[1] :].any():
                _log.warning("CLIP reads only the beginning of the prompt %r", text)
        with torch.inference_mode(False), torch.no_grad():
            parts = tokens.to(self._device).split(_TEXTS_AT_ONCE)
            return torch.cat([normalize(self._model.encode_text(part), dim=-1) for part in parts])


class ClipScore:
    """The cosine of an image's and its prompt's embedding, -1..1. `model`: a folder as `Backbone` says."""

    differentiable = True

    def __init__(self, name: str, backbone: Backbone) -> None:
        self.name = name
        self._backbone = backbone
        self._texts: dict[str, Tensor] = {}

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Raises ValueError unless there is one prompt an image."""
        if len(prompts) != len(images):
            raise ValueError(f"{len(images)} images with {len(prompts)} prompts")
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts]
        if new:
            self._texts.update(zip(new, self._backbone.embed_texts(new), strict=True))
        wanted = torch.stack([self._texts[prompt] for prompt in prompts])
        return (self._backbone.embed_images(images) * wanted).sum(dim=-1)


def create(spec: ScorerSpec, device: torch.device) -> ClipScore:
    """The entry point of the scorer "clip"."""
    if spec.model is None:
        raise InputError(f"scorer {spec.scorer!r} needs 'model': the folder of an open_clip model")
    return ClipScore(spec.scorer, Backbone(Path(spec.model), device))


def preprocess(images: Tensor, config: Mapping[str, Any]) -> Tensor:
    """What open_clip's own transform does to a PIL image, on a batch and differentiably.

    images: (N, 3, H, W) in [0, 1]. config: open_clip's preprocess config (size, resize_mode, interpolation,
    mean, std, fill_color). Returns (N, 3, size, size), normalised.
    Raises InputError for a resize mode that open_clip does not have.
    """
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    resized = _fit(images, height, width, config)
    mean, std = (torch.tensor(config[key], device=images.device).view(3, 1, 1) for key in ("mean", "std"))
    return (resized - mean) / std


def _fit(images: Tensor, height: int, width: int, config: Mapping[str, Any]) -> Tensor:
    mode, kind = config["resize_mode"], config["interpolation"]
    high, wide = images.shape[-2:]
    if mode == "squash":
        return _resize(images, height, width, kind)
    if mode not in ("shortest", "longest"):
        raise InputError(
            f"resize_mode {mode!r} of the CLIP model is unknown; give shortest, longest or squash"
        )
    ratios = (height / high, width / wide)
    scale = max(ratios) if mode == "shortest" else min(ratios)
    # torchvision truncates the longer side of "shortest", timm's "longest" rounds.
    whole = int if mode == "shortest" else round
    resized = _resize(images, max(1, whole(high * scale + 1e-6)), max(1, whole(wide * scale + 1e-6)), kind)
    return _centre(resized, height, width, config.get("fill_color", 0) / 255)


def _resize(images: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images
    resized = interpolate(
        images,
        size=(height, width),
        mode="bilinear" if interpolation == "bilinear" else "bicubic",
        antialias=True,
        align_corners=False,
    )
    return resized.clamp(0, 1)


def _centre(images: Tensor, height: int, width: int, fill: float) -> Tensor:
    high, wide = images.shape[-2:]
    missing_y, missing_x = max(0, height - high), max(0, width - wide)
    if missing_y or missing_x:
        left, top = missing_x // 2, missing_y // 2
        images = pad(images, (left, missing_x - left, top, missing_y - top), value=fill)
    # as torchvision's center_crop: an odd remainder is rounded to even
    top, left = round((images.shape[-2] - height) / 2.0), round((images.shape[-1] - width) / 2.0)
    return images[..., top : top + height, left : left + width]


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
