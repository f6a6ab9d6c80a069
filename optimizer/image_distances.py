"""How far apart the images of several models lie in CLIP space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from scoring.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
Matrix = NDArray[np.float64]


def image_distances(folders: Sequence[Path], clip: Path) -> Matrix:
    """The mean L2 distance between the CLIP embeddings of two models' images, for every two models.

    folders: one a model, with images of the same names: the same probes. Only names that every folder has
    count. Embeddings have length 1, so distances lie in [0, 2]. clip: a folder in open_clip's layout. Returns
    (N, N), symmetric, 0 on the diagonal. Raises InputError for a folder that is not there, for folders
    without a common name, for a file that is no image, and for a folder that is no CLIP.
    """
    names = _common_names(folders)
    model, preprocess = _load(clip)
    embeddings = np.stack(
        [_embed(model, preprocess, [folder / name for name in names]) for folder in folders]
    )
    differences = embeddings[:, None] - embeddings[None]
    found: Matrix = np.linalg.norm(differences, axis=-1).mean(axis=-1)
    return found


def _common_names(folders: Sequence[Path]) -> list[str]:
    held = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder; put the images of each model into a folder of its name")
        held.append({path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES})
    common = sorted(set.intersection(*held)) if held else []
    if not common:
        raise InputError(
            f"the folders of {', '.join(folder.name for folder in folders)} have no image of the same name; "
            "render the same probes with every model"
        )
    return common


def _load(clip: Path) -> tuple[torch.nn.Module, object]:
    try:
        model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{clip}")
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"{clip} is no CLIP in open_clip's layout ({error}); give such a folder") from error
    return model.eval(), preprocess


@torch.no_grad()
def _embed(model: torch.nn.Module, preprocess: object, files: Sequence[Path]) -> NDArray[np.float64]:
    """(images, width), each of length 1."""
    rows = []
    for file in files:
        try:
            with Image.open(file) as image:
                pixels = preprocess(image.convert("RGB"))  # type: ignore[operator]
        except (OSError, UnidentifiedImageError) as error:
            raise InputError(f"{file} is no image that can be read ({error})") from error
        rows.append(model.encode_image(pixels[None])[0].double())  # type: ignore[operator]
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1).numpy()
