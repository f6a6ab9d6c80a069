"""Contact sheets of the zoo: styles x concepts by the base, and members x concepts by every checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from examples.emoji.assemble import members
from examples.emoji.pictures import caption
from optimizer.checkpoints import load_components
from optimizer.contact_sheet import contact_sheet
from scoring.probes import Probe
from scoring.rendering.images import to_pil
from scoring.rendering.renderer import Renderer

CONCEPTS = (
    "fox", "tiger face", "penguin", "octopus", "butterfly", "frog", "pizza", "strawberry", "hamburger",
    "avocado", "carrot", "grinning face", "smiling face with sunglasses", "ghost", "sunflower", "cactus",
    "rocket", "sailboat", "soccer ball", "red heart",
)  # fmt: skip
STYLES = ("noto", "twemoji", "flat", "3d")


def draw(file: Path, prompts: Sequence[str], seed: int = 1) -> list[Image.Image]:
    """One picture per prompt by one checkpoint."""
    renderer = Renderer(load_components(file, device="cpu", dtype=torch.float32), "cpu", 16)
    probes = [
        Probe(prompt=p, seed=seed, sampler="DPM++ 2M", steps=12, cfg_scale=4, width=32, height=32)
        for p in prompts
    ]
    pictures: dict[int, Image.Image] = {}
    for indices, images in renderer.render(probes):
        pictures |= zip(indices, to_pil(images), strict=True)
    return [pictures[i] for i in range(len(probes))]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("zoo/models"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    base = args.models / "emoji-base.safetensors"
    by_style = {style: draw(base, [caption(c, style) for c in CONCEPTS]) for style in STYLES}
    contact_sheet(by_style, CONCEPTS, cell=64).save(args.out / "zoo-styles.png", optimize=True)
    by_member = {m: draw(args.models / f"emoji-{m}.safetensors", CONCEPTS) for m in members()}
    contact_sheet(by_member, CONCEPTS, cell=64).save(args.out / "zoo-members.png", optimize=True)


if __name__ == "__main__":
    main()
