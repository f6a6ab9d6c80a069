"""How fast a trial's merge is: LiveMerge against the memory floor, a rebuilt state dict, and sd-mecha.

On a random-weight UNet of SD2.1's true size (866 M parameters, fp16), all weights changed in each round. The
floor is one pass that reads two buffers and writes one of the same bytes. All ways run in turn in one
process and ratios are taken round by round, so that a noisy machine disturbs them alike.

    python benchmarks/merge.py [--quick] [--json FILE] [--device cuda]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from optimizer.blocks import BLOCKS, BlockWeights, block_of
from optimizer.checkpoints import build_unet, expected_tensors, unet_names, write_checkpoint
from optimizer.merging import LiveMerge

DTYPE = torch.float16
Way = Callable[[BlockWeights], object]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and sd-mecha left out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    quick = bool(arguments.quick)
    figures = measure(
        arguments.device, rounds=3 if quick else 9, slow_rounds=1 if quick else 3, with_mecha=not quick
    )
    print_table(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(device: str, rounds: int, slow_rounds: int, *, with_mecha: bool) -> dict[str, object]:
    """Seconds and ratios to LiveMerge and the floor; the slow ways run in the first `slow_rounds` only."""
    unet = build_unet("sd2").to_empty(device=device).to(DTYPE).requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        a, b = (
            write_random_unet(Path(folder) / f"{name}.safetensors", seed) for seed, name in enumerate("ab")
        )
        merge = LiveMerge(a, b, unet, architecture="sd2", device=device, dtype=DTYPE)
    ways: dict[str, Way] = {"LiveMerge": merge.apply, "floor": floor_of(merge)}
    slow = {"state dict": state_dict_way(merge, unet)}
    mecha = mecha_way(merge) if with_mecha else None
    if mecha is not None:
        slow["sd-mecha"] = mecha
    seconds: dict[str, list[float]] = {name: [] for name in (*ways, *slow)}
    merge.apply(weights_of(99))
    for number in range(rounds):
        for name, way in {**ways, **(slow if number < slow_rounds else {})}.items():
            seconds[name].append(timed(way, weights_of(number), device))
    return summary(seconds, device)


def summary(seconds: Mapping[str, list[float]], device: str) -> dict[str, object]:
    ours, floor = seconds["LiveMerge"], seconds["floor"]
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "parameters": sum(torch.Size(shape).numel() for shape in expected_tensors("sd2").unet.values()),
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "rounds": {name: len(values) for name, values in seconds.items()},
        "over_floor": median_ratio(ours, floor),
        "faster_than": {
            name: median_ratio(values, ours)
            for name, values in seconds.items()
            if name not in ("LiveMerge", "floor")
        },
        "goals": {"over_floor": 1.15, "faster_than": 5.0},
    }


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=False))


def write_random_unet(path: Path, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    # One drawn buffer cut at shifting places: as random to a merge as 866 M draws, and done in a second.
    pool = (torch.randn(32_000_000, generator=generator) * 0.02).to(DTYPE)
    tensors: dict[str, Tensor] = {}
    for index, (key, shape) in enumerate(expected_tensors("sd2").unet.items()):
        size = torch.Size(shape).numel()
        start = (index * 7919) % (len(pool) - size)
        tensors[key] = pool[start : start + size].view(shape)
    write_checkpoint(path, tensors, {})
    return path


def weights_of(number: int) -> BlockWeights:
    return {block: ((7 * index + 3 * number) % 25 + 1) / 27 for index, block in enumerate(BLOCKS)}


def floor_of(merge: LiveMerge) -> Way:
    # Integer xor does no arithmetic worth the name, so only memory is measured; half as many, twice as wide.
    triples = [
        tuple(part[block].view(torch.int32) for part in (merge._a, merge._b, merge._live)) for block in BLOCKS
    ]

    def floor(_: BlockWeights) -> None:
        for a, b, out in triples:
            torch.bitwise_xor(a, b, out=out)

    return floor


def state_dict_way(merge: LiveMerge, unet: UNet2DConditionModel) -> Way:
    """What merge tools do: a new tensor for every key, then `load_state_dict`."""
    names = unet_names(unet)
    a, b = named_tensors(merge, unet, merge._a), named_tensors(merge, unet, merge._b)

    def rebuild(weights: BlockWeights) -> None:
        unet.load_state_dict(
            {name: torch.lerp(a[name], b[name], weights[str(block_of(names[name]))]) for name in names}
        )

    return rebuild


def mecha_way(merge: LiveMerge) -> Way | None:
    """sd-mecha's weighted sum of two state dicts in memory, or None where it is not installed.

    It has no SD2 config and its checks refuse unknown keys, so it gets the tensors of a block as one, under
    its config for any single tensor table, which favours it; its result is not even loaded into a UNet.
    """
    try:
        import sd_mecha
    except ImportError:
        return None
    a, b = dict(merge._a), dict(merge._b)
    # It warns for each merge that tensors in memory have no path to write into a recipe.
    logging.getLogger().setLevel(logging.ERROR)
    config = sd_mecha.extensions.model_configs.resolve("singleton-mecha")
    key = next(iter(config.keys()))

    def weighted_sum(weights: BlockWeights) -> None:
        for block in BLOCKS:
            recipe = sd_mecha.weighted_sum(
                sd_mecha.model({key: a[block]}, config=config),
                sd_mecha.model({key: b[block]}, config=config),
                alpha=weights[block],
            )
            sd_mecha.merge(
                recipe,
                merge_dtype=None,
                output_dtype=DTYPE,
                threads=0,
                tqdm=_Silent,
                check_finite_output=False,
            )

    return weighted_sum


class _Silent:
    """A progress bar that shows nothing."""

    def __init__(self, *_: object, **__: object) -> None: ...
    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None: ...
    def update(self, *_: object) -> None: ...
    def set_postfix(self, *_: object, **__: object) -> None: ...
    def close(self) -> None: ...


def named_tensors(
    merge: LiveMerge, unet: UNet2DConditionModel, parts: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The flat parts seen as tensors by diffusers name: at the offsets of the live parameters."""
    names = unet_names(unet)
    found: dict[str, Tensor] = {}
    for name, parameter in unet.named_parameters():
        block = str(block_of(names[name]))
        offset = parameter.storage_offset() - merge._live[block].storage_offset()
        found[name] = parts[block][offset : offset + parameter.numel()].view(parameter.shape)
    return found


def timed(way: Way, weights: BlockWeights, device: str) -> float:
    started = time.perf_counter()
    way(weights)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started


def print_table(figures: Mapping[str, object]) -> None:
    seconds, faster = figures["seconds"], figures["faster_than"]
    assert isinstance(seconds, dict)
    assert isinstance(faster, dict)
    print(f"{figures['parameters']} parameters, fp16, {figures['device']}, {figures['threads']} threads")
    for name, value in seconds.items():
        ratio = f"LiveMerge is {faster[name]:.1f} x faster" if name in faster else ""
        print(f"{name:12} {value * 1000:9.1f} ms  {ratio}")
    print(f"LiveMerge takes {figures['over_floor']:.2f} x the floor (goal 1.15; goal against the others 5)")


if __name__ == "__main__":
    main()
