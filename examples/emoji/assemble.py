"""Make full single-file checkpoints of the zoo from its packed weights.

`python -m examples.emoji.assemble --out zoo` writes `zoo/models/emoji-*.safetensors` and the reward as
an open_clip folder, `zoo/scorers/emoji-clip/`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from examples.emoji.pack import WEIGHTS, read, unpack_finetune
from examples.emoji.train_reward import REWARD
from optimizer.checkpoints import config_folder, single_file_tensors, write_checkpoint

CONFIG = config_folder("emoji")
SHARED = ("base", "text", "vae", "reward")


def members() -> list[str]:
    """Names of the zoo's checkpoints: "base" and the fine-tunes, as packed."""
    names = sorted(f.name.removesuffix(".safetensors.xz") for f in WEIGHTS.glob("*.safetensors.xz"))
    return ["base", *(name for name in names if name not in SHARED)]


def assemble(out: Path, names: list[str] | None = None) -> list[Path]:
    """Write the named members (all unless given) as fp16 single files; return their paths."""
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(CONFIG / "unet"))
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(CONFIG / "vae"))
    text = CLIPTextModel(CLIPTextConfig.from_pretrained(CONFIG / "text_encoder"))
    base = read("base")
    vae.load_state_dict(read("vae"))
    text.load_state_dict(read("text"))
    files = []
    for name in names or members():
        unet.load_state_dict(base if name == "base" else unpack_finetune(base, read(name)))
        tensors = {k: v.half() for k, v in single_file_tensors(unet, vae, text).items()}
        files.append(out / f"emoji-{name}.safetensors")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(files[-1], tensors, {"format": "pt", "prediction_type": "v_prediction"})
    return files


def assemble_reward(folder: Path) -> Path:
    """Write the reward as a folder that open_clip loads with `local-dir:`."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(REWARD / "open_clip_config.json", folder)
    weights = {k: v.float() if v.is_floating_point() else v for k, v in read("reward").items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("zoo"))
    out: Path = parser.parse_args().out
    torch.set_grad_enabled(False)
    for file in assemble(out / "models"):
        print(f"{file} {file.stat().st_size / 1e6:.1f} MB")
    print(assemble_reward(out / "scorers/emoji-clip"))


if __name__ == "__main__":
    main()
