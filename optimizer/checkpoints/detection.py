"""What a UNet predicts, found by asking it: one step on pure noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from optimizer.checkpoints.architectures import PredictionType, config
from optimizer.checkpoints.inspection import find_architecture
from optimizer.checkpoints.loading import load_unet
from optimizer.checkpoints.opening import open_checkpoint
from optimizer.checkpoints.prediction import Prediction
from scoring.errors import InputError

# Between what models give: above 0.9 for the noise, below 0.3 for the velocity.
_HALFWAY = 0.5
_SIZE = 32
_TOKENS = 77


def detect_prediction(path: Path, *, device: torch.device | str = "cpu", seed: int = 0) -> Prediction:
    """Whether a checkpoint predicts the noise or the velocity, by one call of its UNet in fp32.

    Takes seconds and the UNet's memory. For SD1.x, SD2.x and the zoo; raises InputError for SDXL, whose UNet
    wants more than noise, and for a UNet that gives NaN.
    """
    with open_checkpoint(path) as file:
        architecture = find_architecture(file)
    if architecture == "sdxl":
        raise InputError(f"{path.name} is SDXL, whose prediction type is not detected; tell it")
    unet = load_unet(path, device=device, dtype=torch.float32)
    steps = int(config(architecture, "scheduler")["num_train_timesteps"])
    width = int(config(architecture, "unet")["cross_attention_dim"])
    text = torch.zeros(1, _TOKENS, width, device=device)

    def predict(noise: Tensor) -> Tensor:
        found: Tensor = unet(noise.to(device), steps - 1, text).sample.cpu()
        return found

    likeness = likeness_to_noise(predict, seed)
    if math.isnan(likeness):
        raise InputError(f"{path.name}: its UNet gives NaN; download it again or leave it out")
    kind: PredictionType = "epsilon" if likeness > _HALFWAY else "v_prediction"
    return Prediction(
        kind, f"one step on noise: what the UNet gives has cosine {likeness:.2f} with the noise"
    )


@torch.no_grad()
def likeness_to_noise(predict: Callable[[Tensor], Tensor], seed: int = 0) -> float:
    """The cosine between noise (1, 4, 32, 32) and what is predicted from it at the last training step.

    There x_t = sqrt(a) x_0 + sqrt(1 - a) e with a near 0 is the noise e itself: who predicts e gives back
    what came in, and who predicts v = sqrt(a) e - sqrt(1 - a) x_0 (Salimans and Ho 2022) gives the image,
    with its sign turned, and hardly any of the noise.
    """
    noise = torch.randn(1, 4, _SIZE, _SIZE, generator=torch.Generator().manual_seed(seed))
    return float(torch.cosine_similarity(predict(noise).flatten(), noise.flatten(), dim=0))
