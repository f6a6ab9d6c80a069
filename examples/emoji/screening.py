"""`autombw screen` on the zoo, and docs/screening.png: `python -m examples.emoji.screening`.

The zoo's models share one text encoder, so three worse ones are made of it: a screening has to tell which.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file

from examples.emoji.assemble import assemble, assemble_reward
from optimizer.components import extract

PROBES = {
    "defaults": {"sampler": "DPM++ 2M", "steps": 10, "cfg_scale": 4.0, "width": 32, "height": 32},
    "prompts": [
        "tiger face, noto style",
        "strawberry, twemoji style",
        "grinning face, flat style",
        "ghost, 3d style",
        "red heart, noto style",
        "sailboat, flat style",
        "hamburger, twemoji style",
        "penguin, 3d style",
    ],
    "seeds": [1],
}
NOISE = {"text-whole": 0.0, "text-noise-25%": 0.25, "text-noise-50%": 0.5, "text-noise-75%": 0.75}
"""File -> noise on every weight of the text encoder, as a share of its tensor's standard deviation."""


def write_text_encoders(model: Path, folder: Path) -> list[Path]:
    """The text encoder of a model, and worse ones."""
    generator = torch.Generator().manual_seed(0)
    whole = folder / "whole.safetensors"
    extract(model, ["text_encoder"], whole, metadata={})
    tensors = load_file(whole)
    files = []
    for name, noise in NOISE.items():
        worse = {
            key: tensor + noise * tensor.std(unbiased=False) * torch.randn(tensor.shape, generator=generator)
            for key, tensor in ((key, tensor.float()) for key, tensor in tensors.items())
        }
        files.append(folder / f"{name}.safetensors")
        save_file(worse, files[-1])
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("screening"), help="kept: run again, it goes on")
    parser.add_argument("--out", type=Path, default=Path("docs/screening.png"))
    args = parser.parse_args()
    work: Path = args.work
    unets = assemble(work / "models")
    assemble_reward(work / "scorers/emoji-clip")
    texts = write_text_encoders(work / "models/emoji-base.safetensors", work)
    (work / "probes.yaml").write_text(yaml.safe_dump(PROBES))
    command = [sys.executable, "-m", "service.cli", "screen", "--unets", *map(str, unets)]
    command += ["--text-encoders", *map(str, texts), "--probes", str(work / "probes.yaml")]
    command += ["--scorer", "clip=emoji-clip", "--cell", "96", "--out", str(work / "out")]
    folders = {f"AUTOMBW_{name.upper()}_DIR": str(work / name) for name in ("models", "scorers", "data")}
    subprocess.run(command, check=True, env={**os.environ, **folders})
    shutil.copyfile(work / "out/sheet-1.png", args.out)
    print(args.out)


if __name__ == "__main__":
    main()
