"""Predictors of beauty: small heads over the CLIP embedding of an image.

`model` is the head's file (`.pth` or `.safetensors`), or the folder that holds it under its published name;
the open_clip model whose embeddings it reads lies in the same folder, as `clip_score.Backbone` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from scoring.errors import InputError
from scoring.scorers.base import ScorerSpec
from scoring.scorers.clip_score import Backbone
from scoring.scorers.tensor_files import filled, read_file, state_dict
from scoring.scorers.weights import given_path


def v1_head() -> nn.Module:
    """LAION's first predictor, linear over ViT-L-14: about 1..10."""
    return nn.Linear(768, 1)


def v2_head() -> nn.Module:
    """LAION's second ("improved aesthetic predictor") over ViT-L-14: about 1..10.

    Five linear layers with nothing between: they were trained with dropout and without activations.
    """
    return named({"layers": five_layers(768)})


def five_layers(width: int, numbers: Sequence[int] = (0, 2, 4, 6, 7)) -> nn.Sequential:
    """Linear layers width-1024-128-64-16-1. numbers: what the published file calls them, which counts the
    dropouts between them."""
    widths = (width, 1024, 128, 64, 16, 1)
    return named({str(number): nn.Linear(widths[i], widths[i + 1]) for i, number in enumerate(numbers)})


def aes_b32_head() -> nn.Module:
    """aes-B32-v0 over ViT-B-32: 512-256-128-1 with ReLU between and a sigmoid at the end, 0..1."""
    return _AesB32()


def named(modules: Mapping[str, nn.Module]) -> nn.Sequential:
    """The modules one after the other, each called by its name in a state dict."""
    chain = nn.Sequential()
    for name, module in modules.items():
        chain.add_module(name, module)
    return chain


class _AesB32(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(512, 256), nn.Linear(256, 128), nn.Linear(128, 1)

    def forward(self, embedding: Tensor) -> Tensor:
        hidden = torch.relu(self.fc2(torch.relu(self.fc1(embedding))))
        return torch.sigmoid(self.fc3(hidden))


class Aesthetic:
    """Scores looks alone: `head` over the unit-length embedding of `backbone`. Prompts are ignored."""

    differentiable = True

    def __init__(self, name: str, backbone: Backbone, head: nn.Module) -> None:
        self.name = name
        self._backbone = backbone
        self._head = head

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:  # noqa: ARG002
        scores: Tensor = self._head(self._backbone.embed_images(images)).squeeze(-1)
        return scores


def create_v1(spec: ScorerSpec, device: torch.device) -> Aesthetic:
    """The entry point of the scorer "laion-v1" (`sa_0_4_vit_l_14_linear.pth`)."""
    return _create(spec, device, v1_head, 768)


def create_v2(spec: ScorerSpec, device: torch.device) -> Aesthetic:
    """The entry point of "laion-v2" (`sac+logos+ava1-l14-linearMSE.pth`) and "laion-chad"
    (`chadscorer.pth`), which is another training of the same head."""
    return _create(spec, device, v2_head, 768)


def create_aes_b32(spec: ScorerSpec, device: torch.device) -> Aesthetic:
    """The entry point of the scorer "aes-b32-v0" (`aes-B32-v0.safetensors`)."""
    return _create(spec, device, aes_b32_head, 512)


def _create(spec: ScorerSpec, device: torch.device, make: Callable[[], nn.Module], width: int) -> Aesthetic:
    path = given_path(spec, "the head's file, in the folder of its open_clip model")
    head = load_head(path, make()).to(device)
    backbone = Backbone(path.parent, device)
    found = backbone.width
    if found != width:
        raise InputError(
            f"{path.parent}: its open_clip model makes embeddings {found} wide, "
            f"scorer {spec.scorer!r} reads {width}; put the head beside the model it was trained on"
        )
    return Aesthetic(spec.scorer, backbone, head)


def load_head(path: Path, head: nn.Module) -> nn.Module:
    """`head` with the weights of a file, frozen, in float32.

    Raises InputError for a file that is missing, unreadable or of another head.
    """
    return filled(head, state_dict(read_file(path), path), path)
