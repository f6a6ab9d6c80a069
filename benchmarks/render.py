"""Our renderer against diffusers' pipeline called once per probe: 12 probes of the emoji zoo's architecture.

The weights are random: time does not depend on them. Both sides run in one process, in turns, and the best
time of each counts. `python -m benchmarks.render [--quick] [--json FILE]`
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from scoring.probes import Probe
from scoring.rendering.renderer import Renderer
from tests.unit.scoring.models import emoji, pipeline, pipeline_image

PROMPTS = ("a cat", "a red heart", "a slice of pizza", "a smiling face", "a tree", "a car")


def probes(steps: int) -> list[Probe]:
    """Six prompts with two seeds each, with guidance, 32x32 (8x8 latents)."""
    return [
        Probe(prompt=prompt, seed=seed, steps=steps, width=32, height=32)
        for prompt in PROMPTS
        for seed in (1, 2)
    ]


def seconds(action: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(steps: int, rounds: int) -> dict[str, float | int]:
    """Seconds of both ways to render the probes, their ratio and the largest difference in a pixel."""
    components = emoji()
    wanted = probes(steps)
    renderer = Renderer(components, "cpu")
    renderer.encode(wanted)
    theirs = pipeline(components, wanted[0])

    def render_ours() -> Tensor:
        return torch.cat([images for _, images in renderer.render(wanted)])

    def render_theirs() -> Tensor:
        return torch.stack([pipeline_image(components, probe, theirs) for probe in wanted])

    with torch.inference_mode():
        difference = float((render_ours() - render_theirs()).abs().max())  # also warms both up
        times = [(seconds(render_ours), seconds(render_theirs)) for _ in range(rounds)]
    ours, pipeline_time = (min(column) for column in zip(*times, strict=True))
    return {
        "probes": len(wanted),
        "steps": steps,
        "threads": torch.get_num_threads(),
        "ours_seconds": ours,
        "pipeline_seconds": pipeline_time,
        "ratio": pipeline_time / ours,
        "max_abs_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps and rounds: under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    options = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)
    figures = measure(steps=8, rounds=2) if options.quick else measure(steps=20, rounds=5)
    for name, value in figures.items():
        print(f"{name:<20} {value:>12.4g}")
    print(f"goal: ratio >= 2: {'met' if figures['ratio'] >= 2 else 'MISSED'}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
