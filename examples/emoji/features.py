"""The same probes with each feature off and on, drawn by the zoo: `python -m examples.emoji.features`.

Writes docs/features.png.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from examples.emoji.assemble import assemble
from optimizer.checkpoints import load_components
from optimizer.contact_sheet import contact_sheet
from scoring.probes import DynamicThresholding, FreeU, FreeUStage, Hires, Probe
from scoring.rendering.images import to_pil
from scoring.rendering.renderer import Renderer

PROMPTS = (
    "tiger face, noto style",
    "strawberry, twemoji style",
    "grinning face, flat style",
    "ghost, 3d style",
    "red heart, noto style",
    "sailboat, flat style",
)
BASE: dict[str, Any] = {
    "seed": 1,
    "sampler": "Euler",
    "steps": 16,
    "cfg_scale": 4.0,
    "width": 32,
    "height": 32,
}
THRESHOLDING = DynamicThresholding(
    mimic_scale=4, separate_feature_channels=False, interpolate_phi=1.0, variability="AD"
)
# The stages that the paper recommends for SD2, as in the log that the project grew from.
STAGES = (
    FreeUStage(backbone_factor=1.1, skip_factor=0.9),
    FreeUStage(backbone_factor=1.2, skip_factor=0.2),
)
ROWS: Mapping[str, Mapping[str, Any]] = {
    "all off": {},
    "hires fix x1.25, 0.3": {"hires": Hires(scale=1.25, denoising_strength=0.3)},
    "hires, nearest-exact": {
        "hires": Hires(scale=1.25, denoising_strength=0.3, upscaler="Latent (nearest-exact)")
    },
    "FreeU v1": {"freeu": FreeU(stages=STAGES, version=1)},
    "FreeU v2": {"freeu": FreeU(stages=STAGES, version=2)},
    "CFG 14": {"cfg_scale": 14.0},
    "CFG 14, thresholding": {"cfg_scale": 14.0, "thresholding": THRESHOLDING},
    "CFG 14, rescale 0.7": {"cfg_scale": 14.0, "cfg_rescale": 0.7},
    "clip skip 2": {"clip_skip": 2},
    "Euler a": {"sampler": "Euler a"},
    "Euler a, eta 0.5": {"sampler": "Euler a", "eta": 0.5},
    "Euler a, ENSD 31337": {"sampler": "Euler a", "ensd": 31337},
    "Karras": {"schedule": "Karras"},
    "noise of a GPU": {"rng": "NV"},
    "variation 0.3": {"variation_seed": 8, "variation_strength": 0.3},
}


@torch.no_grad()
def draw(file: Path) -> dict[str, list[Image.Image]]:
    """Row -> one picture a prompt."""
    renderer = Renderer(load_components(file, device="cpu", dtype=torch.float32), "cpu")
    probes = [Probe(prompt=prompt, **{**BASE, **row}) for row in ROWS.values() for prompt in PROMPTS]
    pictures: dict[int, Image.Image] = {}
    for indices, images in renderer.render(probes):
        pictures |= zip(indices, to_pil(images), strict=True)
    count = len(PROMPTS)
    return {
        label: [pictures[row * count + column] for column in range(count)] for row, label in enumerate(ROWS)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/features.png"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (base,) = assemble(Path(folder), ["base"])
        contact_sheet(draw(base), PROMPTS, cell=72).save(args.out, optimize=True)
    print(args.out)


if __name__ == "__main__":
    main()
