"""What the tests of the scorers share: pictures, small random models in their published form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scoring.scorers.base import Scorer
from scoring.scorers.cards import card_of

CPU = torch.device("cpu")


def pictures(n: int, height: int = 24, width: int = 32) -> Tensor:
    """Smooth random pictures whose pixels are whole 8-bit values."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(n, 3, 5, 5, generator=generator)
    large = nn.functional.interpolate(small, size=(height, width), mode="bilinear")
    return (large * 255).round() / 255


def save_clip(folder: Path, width: int = 8, **preprocess_cfg: Any) -> Path:
    """A tiny random open_clip model in the form in which real ones are published."""
    config = clip_config(width)
    cfg = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.4, 0.5], "interpolation": "bicubic", **preprocess_cfg}
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    folder.mkdir(exist_ok=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": cfg}))
    return folder


def clip_config(width: int) -> dict[str, Any]:
    return {
        "embed_dim": width,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 8, "head_width": 4, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    }


def shake(module: Any, seed: int = 0) -> Any:
    """Weights of order one: those of a fresh model are so small that all its answers are the same."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module.eval()


def check_batch_free(scorer: Scorer, images: Tensor, prompts: Sequence[str]) -> None:
    """One image by itself has the score it has among others."""
    together = scorer.score(images, prompts)
    alone = torch.cat([scorer.score(images[i : i + 1], prompts[i : i + 1]) for i in range(len(images))])
    assert together.shape == (len(images),)
    assert together.dtype == torch.float32
    assert (together - alone).abs().max() <= 1e-4 * together.std()
    assert len(set(together.tolist())) > 1, "a scorer that says the same of every image proves nothing"


def check_gradient(scorer: Scorer, images: Tensor, prompts: Sequence[str]) -> None:
    """The gradient that reaches the images is the slope of the score (central difference)."""
    card = card_of(scorer.name)
    assert scorer.differentiable
    assert card is None or card.differentiable
    leaves = images.clone().requires_grad_()
    scorer.score(leaves, prompts).sum().backward()
    assert leaves.grad is not None
    torch.manual_seed(3)
    # inwards, so that no pixel leaves [0, 1], and smooth, as resizing takes it
    direction = 0.5 - images
    step = 1e-2
    up, down = (scorer.score(images + sign * step * direction, prompts).sum() for sign in (1, -1))
    slope = float((up - down) / (2 * step))
    along = float((leaves.grad * direction).sum())
    assert abs(along) > 1e-6
    assert abs(along - slope) <= 2e-2 * max(abs(slope), abs(along)) + 1e-4
