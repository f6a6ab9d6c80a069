"""Predictors of beauty: small heads over the CLIP embedding of an image.

`model` is the head's file (`.pth` or `.safetensors`); the open_clip model whose embeddings it reads lies in
the same folder, as `clip_score.Backbone` says.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from scoring.errors import InputError
from scoring.scorers.base import ScorerSpec
from scoring.scorers.clip_score import Backbone

Shapes = Mapping[str, tuple[int, ...]]


def v1_head() -> nn.Module:
    """LAION's first predictor, linear over ViT-L-14: about 1..10."""
    return nn.Linear(768, 1)


def v2_head() -> nn.Module:
    """LAION's second ("improved aesthetic predictor") over ViT-L-14: about 1..10.

    Five linear layers with nothing between: they were trained with dropout and without activations.
    """
    names = ("0", "2", "4", "6", "7")
    widths = (768, 1024, 128, 64, 16, 1)
    layers = {name: nn.Linear(widths[i], widths[i + 1]) for i, name in enumerate(names)}
    # The published file numbers the layers with the dropouts between them.
    return _named({"layers": _named(layers)})


def aes_b32_head() -> nn.Module:
    """aes-B32-v0 over ViT-B-32: 512-256-128-1 with ReLU between and a sigmoid at the end, 0..1."""
    return _AesB32()


def _named(modules: Mapping[str, nn.Module]) -> nn.Sequential:
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
    """The entry point of "laion-v2" (`sac+logos+ava1-l14-linearMSE.pth`, `chadscorer.pth`)."""
    return _create(spec, device, v2_head, 768)


def create_aes_b32(spec: ScorerSpec, device: torch.device) -> Aesthetic:
    """The entry point of the scorer "aes-b32-v0" (`aes-B32-v0.safetensors`)."""
    return _create(spec, device, aes_b32_head, 512)


def _create(spec: ScorerSpec, device: torch.device, make: Callable[[], nn.Module], width: int) -> Aesthetic:
    if spec.model is None:
        raise InputError(
            f"scorer {spec.scorer!r} needs 'model': the head's file, in the folder of its open_clip model"
        )
    path = Path(spec.model)
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

    A pickle is read as tensors only, never run. Raises InputError for a file that is missing, unreadable or
    of another head.
    """
    tensors = _read(path)
    wanted: Shapes = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    found: Shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        raise InputError(f"{path}: another head: it has {_shown(found)}, wanted is {_shown(wanted)}")
    head.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return head.eval().requires_grad_(False)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the head's .pth or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"{path}: not readable as tensors: {error}") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise InputError(f"{path}: not a state dict of tensors; give the head's published file")
    return tensors


def _shown(shapes: Shapes) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in sorted(shapes.items()))
