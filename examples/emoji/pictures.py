"""The drawn data set as tensors, and what is held out of it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from examples.emoji.styles import REWARD_ONLY_STYLES

MODEL_SIZE = 32


@dataclass(frozen=True)
class Pictures:
    """`rgb` is (N, 3, 32, 32) in [-1, 1]; the lists are N long."""

    rgb: torch.Tensor
    concept: list[str]
    category: list[str]
    style: list[str]
    held_out: torch.Tensor

    def caption(self, i: int) -> str:
        return caption(self.concept[i], self.style[i])

    def where(self, *, style: str | None = None, category: str | None = None) -> torch.Tensor:
        """Indices the UNet may learn from: its styles, never a held-out pair."""
        keep = [
            s not in REWARD_ONLY_STYLES and not h and style in (None, s) and category in (None, c)
            for s, c, h in zip(self.style, self.category, self.held_out.tolist(), strict=True)
        ]
        return torch.tensor(keep).nonzero()[:, 0]


def caption(concept: str, style: str | None = None) -> str:
    """What a picture is called: "pizza" or "pizza, flat style"."""
    return f"{concept}, {style} style" if style else concept


def is_held_out(concept: str, style: str) -> bool:
    """One (concept, style) pair in twelve is kept from every model of the zoo."""
    return zlib.crc32(f"{concept}/{style}".encode()) % 12 == 0


def load_pictures(file: Path) -> Pictures:
    """Read what `dataset.py` drew, shrunk to the size the models work at."""
    data = np.load(file)
    rgb = torch.from_numpy(data["rgb"]).permute(0, 3, 1, 2).float()
    rgb = F.interpolate(rgb, size=MODEL_SIZE, mode="area") / 127.5 - 1
    concept, style = data["concept"].tolist(), data["style"].tolist()
    held_out = torch.tensor([is_held_out(c, s) for c, s in zip(concept, style, strict=True)])
    return Pictures(rgb, concept, data["category"].tolist(), style, held_out)
