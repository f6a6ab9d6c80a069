"""Our renderer against diffusers' pipeline called once per probe, with plain probes and with the article's
payload (hires fix 1.5, FreeU, dynamic thresholding).

On a CPU the model is of the emoji zoo's architecture, on a GPU also of SD2.1's, both with random weights:
time does not depend on them. Both sides run in one process, in turns, and the best time of each counts.
`python -m benchmarks.render [--quick] [--json FILE]`
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.article import ARTICLE, article_pipelines
from scoring.probes import Probe
from scoring.rendering.acceleration import accelerate
from scoring.rendering.components import Components
from scoring.rendering.renderer import Renderer
from tests.unit.scoring.models import emoji, pipeline, pipeline_image, sd2_of_full_size

PROMPTS = ("a cat", "a red heart", "a slice of pizza", "a smiling face", "a tree", "a car")


def probes(steps: int, size: tuple[int, int], prompts: Sequence[str] = PROMPTS, **fields: Any) -> list[Probe]:
    """Two seeds of each prompt, with guidance. size: width and height in pixels."""
    width, height = size
    return [
        Probe(
            prompt=prompt,
            negative_prompt="a dog",
            seed=seed,
            **{"steps": steps, "width": width, "height": height, **fields},
        )
        for prompt in prompts
        for seed in (1, 2)
    ]


def measure(
    components: Components,
    wanted: Sequence[Probe],
    peer: Callable[[Probe], Tensor],
    *,
    rounds: int,
    accelerated: bool = True,
    compile: bool = False,
) -> dict[str, float | int]:
    """Seconds of both ways to render the probes, their ratio, and how alike the images are (dB).

    accelerated: ours is as a worker has it (see `accelerate`), not as diffusers loads it.
    """
    device = components.unet.device
    # A worker's own, so that the peer's weights lie as diffusers loads them.
    ours = replace(components, unet=deepcopy(components.unet), vae=deepcopy(components.vae))
    if accelerated:
        accelerate(ours.unet, ours.vae, device, compile=compile)
    renderer = Renderer(ours, device)
    renderer.encode(wanted)

    def render_ours() -> Tensor:
        return torch.cat([images for _, images in renderer.render(wanted)])

    def render_theirs() -> Tensor:
        return torch.stack([peer(probe) for probe in wanted])

    with torch.no_grad():
        error = (render_ours() - render_theirs()).double().square().mean()  # also warms both up
        times = [(seconds(render_ours, device), seconds(render_theirs, device)) for _ in range(rounds)]
    our_seconds, their_seconds = (min(column) for column in zip(*times, strict=True))
    return {
        "probes": len(wanted),
        "threads": torch.get_num_threads(),
        "ours_images_per_s": len(wanted) / our_seconds,
        "pipeline_images_per_s": len(wanted) / their_seconds,
        "ratio": their_seconds / our_seconds,
        "psnr_db": float(-10 * torch.log10(error)),
    }


def seconds(action: Callable[[], Tensor], device: torch.device) -> float:
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def plain(components: Components, size: tuple[int, int], steps: int, rounds: int) -> dict[str, float | int]:
    """DPM++ 2M Karras, as the probes of a search are by default."""
    wanted = probes(steps, size)
    theirs = pipeline(components, wanted[0])
    return measure(components, wanted, lambda p: pipeline_image(components, p, theirs), rounds=rounds)


def article(
    components: Components,
    size: tuple[int, int],
    steps: int,
    rounds: int,
    prompts: Sequence[str] = PROMPTS,
    **ours: bool,
) -> dict[str, float | int]:
    """The article's payload. ours: as `measure` takes it."""
    pipelines = article_pipelines(components)
    wanted = probes(steps, size, prompts, **ARTICLE)
    return measure(components, wanted, pipelines.render, rounds=rounds, **ours)


def runs(quick: bool) -> Iterator[tuple[str, dict[str, float | int], float]]:
    """What is measured: its name, its figures, and the ratio that it is to reach."""
    steps, rounds = (8, 2) if quick else (20, 5)
    zoo = emoji()
    yield "zoo, plain, 32x32", plain(zoo, (32, 32), steps, rounds), 2
    yield "zoo, article, 32x32 x1.5", article(zoo, (32, 32), steps, rounds), 2
    if torch.cuda.is_available():
        sd2 = sd2_of_full_size()
        size = (1024, 576)
        _to_gpu(sd2, torch.float32)
        yield "SD2.1, article, 1024x576 x1.5, float32", article(sd2, size, 8, 1, PROMPTS[:1]), 2.5
        _to_gpu(sd2, torch.float16)
        for ours in ({"accelerated": False}, {}, {"compile": True}):
            name = f"SD2.1, article, 1024x576 x1.5, {ours or 'as a worker has it'}"
            yield name, article(sd2, size, steps, 1, PROMPTS, **ours), 2.5


def _to_gpu(components: Components, dtype: torch.dtype) -> None:
    for module in (components.unet, components.vae, components.text_encoder):
        module.to("cuda", dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps and rounds: under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    options = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)
    figures = {}
    for name, found, goal in runs(options.quick):
        figures[name] = found
        print(name)
        for key, value in found.items():
            print(f"  {key:<24} {value:>12.4g}")
        same = found["psnr_db"] >= 50  # in float32; in 16 bits rounding alone differs more
        print(f"  goal: ratio >= {goal}: {'met' if found['ratio'] >= goal else 'MISSED'}")
        print(f"  goal: same images, PSNR >= 50 dB: {'met' if same else 'MISSED'}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
