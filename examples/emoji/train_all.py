"""Train the whole zoo, one step after the other; a step whose output is there is not repeated."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from examples.emoji.train_unet import FINETUNES

# What the shipped weights were trained with.
VAE_STEPS, REWARD_STEPS, BASE_STEPS, FINETUNE_STEPS = 2600, 1000, 3000, 220


def steps(work: Path) -> list[tuple[Path, list[str]]]:
    """(what it makes, module and arguments) in order."""
    to = ["--work", str(work)]
    return [
        (work / "data.npz", ["examples.emoji.dataset", "--out", str(work / "data.npz")]),
        (
            work / "vae/config.json",
            ["examples.emoji.train_vae", "--steps", str(VAE_STEPS), "--batch", "16", *to],
        ),
        (work / "reward/accuracy.json", ["examples.emoji.train_reward", "--steps", str(REWARD_STEPS), *to]),
        (
            work / "base/unet.safetensors",
            ["examples.emoji.train_unet", "base", "--steps", str(BASE_STEPS), *to],
        ),
        *(
            (
                work / name / "unet.safetensors",
                ["examples.emoji.train_unet", name, "--steps", str(FINETUNE_STEPS), *to],
            )
            for name in FINETUNES
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("zoo-work"))
    work: Path = parser.parse_args().work
    for made, arguments in steps(work):
        if made.exists():
            print(f"{made} is there")
            continue
        # On a CPU two processes of one thread share a batch better than two threads do.
        share = "train_unet" in arguments[0] and not torch.cuda.is_available()
        torchrun = ["torch.distributed.run", "--nproc-per-node", "2", "-m"]
        subprocess.run([sys.executable, "-m", *(torchrun if share else []), *arguments], check=True)
    subprocess.run([sys.executable, "-m", "examples.emoji.pack", "--work", str(work)], check=True)


if __name__ == "__main__":
    main()
