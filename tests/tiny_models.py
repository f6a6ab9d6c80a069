"""Small random checkpoints with the exact topology of Stable Diffusion, and a small random CLIP.

They show nothing of quality, but everything runs on them that runs on a real model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from open_clip.model import CLIP
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from optimizer.checkpoints import config_folder, single_file_tensors

REPO = Path(__file__).resolve().parents[1]


def write_models(folder: Path, names: tuple[str, ...] = ("left", "right")) -> None:
    """Checkpoints of one base: text encoder and VAE are shared, every UNet is moved in its own direction."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(_config("unet"))
    vae = AutoencoderKL.from_config(_config("vae"))
    text_encoder = CLIPTextModel(CLIPTextConfig(**_config("text_encoder")))
    for name in names:
        with torch.no_grad():
            for parameter in unet.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        tensors = single_file_tensors(unet, vae, text_encoder)
        halves = {key: tensor.half().contiguous() for key, tensor in tensors.items()}
        save_file(halves, folder / f"{name}.safetensors")


def write_reward(folder: Path, config: dict[str, Any] | None = None) -> None:
    """A random CLIP in the folder layout of open_clip. config: its own; small as the zoo's unless given."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    if config is None:
        config = json.loads((REPO / "examples/emoji/reward/open_clip_config.json").read_text())
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    model = CLIP(**config["model_cfg"])
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")


def job(**changes: Any) -> dict[str, Any]:
    """A job of two probes with two steps on `left` and `right`, of four trials, with changes."""
    defaults = {"sampler": "Euler", "steps": 2, "cfg_scale": 3.0, "width": 32, "height": 32}
    request: dict[str, Any] = {
        "name": "tiny",
        "leaves": ["left", "right"],
        "probes": {"defaults": defaults, "prompts": ["a cat", "a red apple"], "seeds": [1]},
        "heldout": {"defaults": defaults, "prompts": ["a dog"], "seeds": [7]},
        "scorers": [{"scorer": "clip", "model": "reward"}],
        "search": {"sampler": "random", "trials": 4, "seed": 5},
        "output": "merged",
    }
    return {key: value for key, value in {**request, **changes}.items() if value is not None}


def _config(part: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((config_folder("emoji") / part / "config.json").read_text())
    return values
