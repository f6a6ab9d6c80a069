"""The folder of a screening: its images and scores, each kept under what it was made of."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from scoring.errors import InputError
from scoring.probes import Probe
from scoring.probes.images import png_text
from scoring.scorers.base import ScorerSpec

_IMAGES, _SCORES = "images", "scores.jsonl"
_MOST_LETTERS = 60


class ScreenFolder:
    """Images as `images/<UNet>/<text encoder>/<seed>-<prompt>-<key>.png`, scores as lines of a file.

    An image that is there is whole: it is renamed to its name once it is on the disk.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._scores = _read_scores(folder / _SCORES)

    def image_path(self, unet: str, text_encoder: str, probe: Probe, made_of: dict[str, Any]) -> Path:
        """Where the image of a probe lies or would. made_of: all that it depends on besides the probe, as
        JSON has it."""
        told = json.dumps({**made_of, "probe": probe.model_dump(mode="json")}, sort_keys=True)
        key = hashlib.sha256(told.encode()).hexdigest()[:16]
        said = re.sub(r"[^\w]+", "-", probe.prompt)[:40].strip("-")
        name = f"{probe.seed}-{said}-{key}.png"
        return self.folder / _IMAGES / _as_folder(unet) / _as_folder(text_encoder) / name

    def put_image(self, path: Path, image: Image.Image) -> None:
        """Write an image with its infotext, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            image.save(file, "PNG", pnginfo=png_text(image))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def image(self, path: Path) -> Image.Image:
        """A stored image. Raises InputError for one that somebody has damaged."""
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{path} can't be read ({error}); remove it and run again") from error

    def score(self, path: Path, scorer: str) -> float | None:
        """What a scorer, by its `scorer_key`, said of an image; None where it has not judged it."""
        return self._scores.get((path.stem.rpartition("-")[2], scorer))

    def put_scores(self, scorer: str, scores: Iterable[tuple[Path, float]]) -> None:
        """Keep what a scorer said of images."""
        found = {(path.stem.rpartition("-")[2], scorer): score for path, score in scores}
        lines = [json.dumps({"image": key[0], "scorer": scorer, "score": v}) for key, v in found.items()]
        with (self.folder / _SCORES).open("a", encoding="utf-8") as file:
            # In front, since the last line may have been cut by a kill.
            file.write("".join(f"\n{line}" for line in lines))
        self._scores |= found


def scorer_key(spec: ScorerSpec) -> str:
    """Tells scorers apart that may give other numbers: by name, options, and the files of their weights.

    How much a scorer counts, and which way, changes no number of it.
    """
    stamps = []
    if spec.model is not None and Path(spec.model).exists():
        root = Path(spec.model)
        files = sorted(file for file in (root, *root.rglob("*")) if file.is_file())
        stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    told = json.dumps([spec.model_dump(include={"scorer", "model", "label", "sigmoid"}), stamps])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _read_scores(path: Path) -> dict[tuple[str, str], float]:
    scores = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
            scores[str(row["image"]), str(row["scorer"])] = float(row["score"])
        except (ValueError, KeyError, TypeError):
            continue  # cut by a kill: what is not known is computed again
    return scores


def _as_folder(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name)[:_MOST_LETTERS].strip(".") or "model"
