"""Trials and trials with slopes at a real model's size: seconds, memory, and what 16 bits do to the slopes.

Two models of SD2.1's size with random weights (time and memory do not depend on them), scored by a CLIP of
ViT-L/14's size, also random: 768 x 768, 20 steps, guidance. A trial's seconds are those after one that warms
up; its memory is what torch had allocated at most, the models and what the merge keeps included. The slopes
of 16 bits are compared with those of float32 by the angle between them.
`python -m benchmarks.real_size [--json FILE]`; `--architecture emoji --clip small --device cpu --size 64`
tries it without a GPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.slopes import all_of, cosine
from optimizer.blocks import BlockWeights, uniform
from optimizer.checkpoints import expected_tensors, single_file_tensors, write_checkpoint
from optimizer.checkpoints.architectures import config
from optimizer.slopes import NoSlopes, mean_slopes
from optimizer.trial import PairEvaluator
from scoring.errors import TrialFailed
from scoring.probes import Probe
from scoring.reward import rates
from scoring.scorers.base import ScorerSpec
from tests.tiny_models import write_reward

BATCHES = {"float16": (1, 2, 4), "bfloat16": (1, 2, 4), "float32": (1,)}
"""Images at once. float32 is there to compare slopes with: one is enough."""
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
CARD = 23.0
"""GiB that a card of 24 GB leaves to torch."""
APART = 0.05
"""How far B's weights lie from A's, in standard deviations of each tensor: as fine-tunes do, by order."""
CLIPS: dict[str, dict[str, Any]] = {
    "ViT-L/14": {
        "embed_dim": 768,
        "vision_cfg": {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 12},
    },
    "small": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    },
}


# --- models


def write_pair(folder: Path, architecture: str, device: str) -> tuple[Path, Path]:
    """Two checkpoints of an architecture with random weights in float16, B near A."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel.from_config(config(architecture, "unet"))
        vae = AutoencoderKL.from_config(config(architecture, "vae"))
        text = CLIPTextModel(CLIPTextConfig(**config(architecture, "text_encoder")))
    a = {key: value.detach().half() for key, value in single_file_tensors(unet, vae, text).items()}
    missing = {key: shape for key, shape in expected_tensors(architecture).all.items() if key not in a}
    if missing:  # a text encoder under OpenCLIP's names, which SD2 has
        a = {key: value for key, value in a.items() if not key.startswith("cond_stage_model.")}
        a |= {key: _text_tensor(key, shape) for key, shape in missing.items()}
    b = {key: _near(value) if key.startswith("model.diffusion_model.") else value for key, value in a.items()}
    paths = folder / "a.safetensors", folder / "b.safetensors"
    for path, tensors in zip(paths, (a, b), strict=True):
        write_checkpoint(path, {key: value.cpu().contiguous() for key, value in tensors.items()}, {})
    return paths


def _text_tensor(key: str, shape: tuple[int, ...]) -> Tensor:
    is_norm = "ln_" in key and key.endswith("weight")
    return (torch.ones(shape) if is_norm else 0.02 * torch.randn(shape)).half()


def _near(tensor: Tensor) -> Tensor:
    exact = tensor.float()
    return (exact + APART * exact.std() * torch.randn_like(exact)).half()


def write_clip(folder: Path, name: str) -> Path:
    """A CLIP with random weights as a folder that the scorer `clip` loads."""
    write_reward(folder, {"model_cfg": CLIPS[name], "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    return folder


# --- measuring


class Rig:
    """The pair in one dtype on a device, and what its trials take."""

    def __init__(self, pair: tuple[Path, Path], clip: Path, dtype: torch.dtype, device: str) -> None:
        self._specs = [ScorerSpec(scorer="clip", model=str(clip))]
        self._device = torch.device(device)
        self.evaluator = PairEvaluator(*pair, self._specs, device=device, dtype=dtype)
        self._weights = uniform(self.evaluator.blocks, 0.5)

    def plain(self, probes: list[Probe]) -> tuple[float, float]:
        """Seconds of a trial, and GiB at its peak."""
        seconds, peak, _ = self._taken(lambda: self.evaluator.evaluate(self._weights, probes))
        return seconds, peak

    def slopes(self, probes: list[Probe]) -> tuple[float, float, BlockWeights]:
        """The same of a trial with slopes, and the slopes."""
        rated = rates(self._specs)
        seconds, peak, found = self._taken(lambda: self.evaluator.slopes(self._weights, probes, rated))
        return seconds, peak, mean_slopes([one.slopes or {} for one in found])

    def _taken(self, batches: Any) -> tuple[float, float, list[Any]]:
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        began = time.perf_counter()
        found = all_of(batches())
        if on_gpu:
            torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - began
        return seconds, torch.cuda.max_memory_allocated(self._device) / 2**30 if on_gpu else 0.0, found


def probes_of(count: int, size: int, steps: int) -> list[Probe]:
    """One batch of so many images."""
    how: dict[str, Any] = {
        "sampler": "DPM++ 2M",
        "steps": steps,
        "cfg_scale": 7,
        "width": size,
        "height": size,
    }
    return [Probe(prompt="a cat on a mat", negative_prompt="blurry", seed=n, **how) for n in range(count)]


def rows(rig: Rig, dtype: str, size: int, steps: int) -> Iterator[dict[str, Any]]:
    """What trials of each batch take, plain and with slopes."""
    for count in BATCHES[dtype]:
        probes = probes_of(count, size, steps)
        row: dict[str, Any] = {"dtype": dtype, "batch": count}
        try:
            # What the first batch of a shape pays is not of a trial.
            rig.plain(probes_of(count, size, 2))
            rig.slopes(probes_of(count, size, 2))
            row["seconds"], row["gib"] = rig.plain(probes)
            row["slope_seconds"], row["slope_gib"], row["slopes"] = rig.slopes(probes)
            row["price"] = row["slope_seconds"] / row["seconds"]
        except (NoSlopes, TrialFailed) as error:
            row["failed"] = str(error)
        row["notices"] = list(rig.evaluator.notices)
        yield row


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="autombw-real-size-") as name:
        folder = Path(name)
        pair = write_pair(folder, options.architecture, options.device)
        clip = write_clip(folder / "clip", options.clip)
        for dtype in options.dtypes:
            rig = Rig(pair, clip, DTYPES[dtype], options.device)
            for row in rows(rig, dtype, options.size, options.steps):
                found.append(row)
                print({key: value for key, value in row.items() if key != "slopes"}, flush=True)
            del rig
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return found


def show(found: list[dict[str, Any]], device: str) -> None:
    """Print the tables."""
    table = Table(
        "dtype",
        "images",
        "s",
        "GiB",
        "with slopes: s",
        "GiB",
        "price",
        f"within {CARD:.0f} GiB",
        title=device,
    )
    for row in found:
        if "failed" in row:
            table.add_row(row["dtype"], str(row["batch"]), row["failed"])
            continue
        table.add_row(
            row["dtype"], str(row["batch"]), f"{row['seconds']:.2f}", f"{row['gib']:.1f}",
            f"{row['slope_seconds']:.2f}", f"{row['slope_gib']:.1f}", f"{row['price']:.1f}",
            "yes" if row["slope_gib"] < CARD else "no",
        )  # fmt: skip
    Console().print(table)
    slopes = {(row["dtype"], row["batch"]): row["slopes"] for row in found if "slopes" in row}
    for (dtype, batch), ours in slopes.items():
        exact = slopes.get(("float32", batch))
        if dtype != "float32" and exact is not None:
            angle = cosine([ours[block] for block in exact], list(exact.values()))
            print(f"cosine of {dtype}'s slopes with those of float32, {batch} at once: {angle:.4f}")


def main() -> None:
    """Print the tables; --json FILE keeps the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="sd2", choices=["sd1", "sd2", "emoji"])
    parser.add_argument("--clip", default="ViT-L/14", choices=list(CLIPS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=768, help="pixels of a side")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    options = parser.parse_args()
    found = measure(options)
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device
    show(found, name)
    if options.json:
        options.json.write_text(json.dumps({"device": name, "rows": found}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
