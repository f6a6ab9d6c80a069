"""Models of transformers from local folders: offline, frozen, in float32, and complete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoring.errors import InputError
from scoring.hub import hint
from scoring.scorers.preprocessing import as_transformers


def load_model(kind: Any, folder: Path, device: torch.device) -> Any:
    """The model of class `kind` (one of transformers') in `folder`.

    Raises InputError for a folder that has none, a broken one, or one that lacks some of its weights:
    transformers would make these up.
    """
    _check_folder(folder)
    try:
        with _quiet():
            model, told = kind.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:  # transformers, torch and safetensors raise a dozen unrelated kinds
        raise InputError(f"{folder}: transformers can't load this model: {error}{hint()}") from error
    missing = sorted(told["missing_keys"])
    if missing:
        raise InputError(
            f"{folder}: the weights lack {len(missing)} tensors of a {kind.__name__}, such as "
            f"{', '.join(missing[:3])}; give the published folder"
        )
    return model.to(device).eval().requires_grad_(False)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of `folder`. Raises InputError for a folder without one."""
    from transformers import AutoTokenizer

    _check_folder(folder)
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # as above
        raise InputError(f"{folder}: transformers can't load its tokenizer: {error}{hint()}") from error


class ImageProcessor:
    """The image processor of a folder, applied to tensors.

    Raises InputError for a folder without one.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoImageProcessor

        _check_folder(folder)
        try:
            self._processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # as above
            raise InputError(
                f"{folder}: transformers can't load its image processor: {error}{hint()}"
            ) from error

    def __call__(self, images: Tensor) -> Tensor:
        """Pixel values of images (N, 3, H, W) in [0, 1]; differentiable."""
        return as_transformers(images, self._processor)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no tables of what a file has too much: what it lacks is an error."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; give the folder of a transformers model")
