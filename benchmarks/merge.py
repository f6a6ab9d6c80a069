"""How fast a trial's merge is: LiveMerge against the memory floor, a rebuilt state dict, and sd-mecha.

On a random-weight UNet of SD2.1's true size (866 M parameters, fp16), all weights changed in each round. The
floor is one pass that reads two buffers and writes one of the same bytes. All ways run in turn in one
process and ratios are taken round by round, so that a noisy machine disturbs them alike. Every way leaves
the same merge in the UNet, which is checked first.

The ways that make a new tensor per key run twice a round. First after the heap was given back to the system,
as happens by itself in a process that has only this way: then each merge also pays for 1.7 GB of fresh pages.
Then with the heap kept, as other allocators do: that is the merge alone.

    python -m benchmarks.merge [--quick] [--json FILE] [--device cuda]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from optimizer.blocks import BLOCKS, BlockWeights, block_of
from optimizer.checkpoints import build_unet, expected_tensors, unet_names, write_checkpoint
from optimizer.merging import LiveMerge

DTYPE = torch.float16
KEPT = ", memory kept"
GOALS = {"over_floor": 1.15, "faster_than": 5.0}
TURNS = 3
# Parameters of mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
Way = Callable[[BlockWeights], object]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round of all ways instead of 7")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    figures = measure(arguments.device, rounds=1 if arguments.quick else 7)
    print_table(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(device: str, rounds: int) -> dict[str, object]:
    """Seconds of each way, and their ratios to LiveMerge and the floor."""
    unet = build_unet("sd2").to_empty(device=device).requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        a, b = (
            write_random_unet(Path(folder) / f"{name}.safetensors", seed) for seed, name in enumerate("ab")
        )
        merge = LiveMerge(a, b, unet, architecture="sd2", device=device, dtype=DTYPE)
    cheap: dict[str, Way] = {"LiveMerge": merge.apply, "floor": floor_of(merge)}
    rebuilding = {"state dict": state_dict_way(merge, unet), **mecha_ways(merge, unet)}
    keep_freed_memory()
    for way in (merge.apply, *rebuilding.values()):
        way(weights_of(99))
        check_merged(merge, weights_of(99))
    measured = [one_round(cheap, rebuilding, number, device) for number in range(rounds)]
    return summary({name: [row[name] for row in measured] for name in measured[0]}, device)


def one_round(
    cheap: Mapping[str, Way], rebuilding: Mapping[str, Way], number: int, device: str
) -> dict[str, float]:
    """Seconds of every way; the cheap ones take `TURNS` turns, of which the median counts."""
    turns = [
        [timed(way, weights_of(TURNS * number + turn), device) for way in cheap.values()]
        for turn in range(TURNS)
    ]
    medians = map(statistics.median, zip(*turns, strict=True))
    seconds: dict[str, float] = dict(zip(cheap, medians, strict=True))
    for name, way in rebuilding.items():
        give_memory_back()
        seconds[name] = timed(way, weights_of(number), device)
        seconds[name + KEPT] = timed(way, weights_of(number), device)
    return seconds


def summary(seconds: Mapping[str, list[float]], device: str) -> dict[str, object]:
    ours, floor = seconds["LiveMerge"], seconds["floor"]
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "parameters": sum(torch.Size(shape).numel() for shape in expected_tensors("sd2").unet.values()),
        "rounds": len(ours),
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "over_floor": median_ratio(ours, floor),
        "faster_than": {
            name: median_ratio(values, ours)
            for name, values in seconds.items()
            if name not in ("LiveMerge", "floor")
        },
        "goals": GOALS,
    }


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


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


def check_merged(merge: LiveMerge, weights: BlockWeights) -> None:
    """Raises AssertionError unless the UNet is the merge; the head of each block stands for it."""
    for block, live in merge._live.items():
        a, b = (part[block][:100_000].float() for part in (merge._a, merge._b))
        # sd-mecha hands alpha on in half precision, where it is off by up to 2^-12.
        torch.testing.assert_close(
            live[:100_000].float(), torch.lerp(a, b, weights[block]), rtol=2e-3, atol=2e-4
        )
        live[:100_000].zero_()


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


def mecha_ways(merge: LiveMerge, unet: UNet2DConditionModel) -> dict[str, Way]:
    """sd-mecha's weighted sum of two state dicts in memory into the UNet; none where it is not installed.

    Both ways have all of its checks and casts off. With its defaults (fp32, every input and output searched
    for NaN) it takes about ten times as long, and longer still where it reads the models from files.

    `sd-mecha`: as it is meant to be used, one recipe over one model config. It ships none for SD2, so the
    keys of SD2 are given to it as a config of our own, which is how it is extended.
    `sd-mecha, flat blocks`: each block as one tensor under its config for a single tensor, so LiveMerge's
    memory layout is lent to it.
    """
    try:
        import sd_mecha
        from sd_mecha.extensions import model_configs
        from tqdm import tqdm  # type: ignore[import-untyped]
    except ImportError:
        print("sd-mecha is not installed and left out; pip install -e '.[bench]' brings it")
        return {}
    # It warns for each merge that tensors in memory have no path to write into a recipe.
    logging.getLogger().setLevel(logging.ERROR)
    run = partial(
        sd_mecha.merge,
        merge_dtype=None,
        output_device=None,
        output_dtype=None,
        threads=0,
        check_extra_keys=False,
        check_finite_output=False,
        omit_non_finite_inputs=False,
        memoize_intermediates=False,
        validate_mm_contract=False,
        tqdm=partial(tqdm, disable=True),
    )
    names = unet_names(unet)
    a, b, live = (
        {names[name]: tensor for name, tensor in named_tensors(merge, unet, parts).items()}
        for parts in (merge._a, merge._b, merge._live)
    )
    sd2 = model_configs.ModelConfigImpl(
        "sd2-ldm", {"unet": {key: model_configs.KeyMetadata(t.shape, t.dtype) for key, t in live.items()}}
    )
    model_configs.register(sd2)
    model_a, model_b = sd_mecha.model(a, sd2), sd_mecha.model(b, sd2)

    def one_recipe(weights: BlockWeights) -> None:
        alpha = sd_mecha.literal({key: weights[str(block_of(key))] for key in live}, sd2)
        run(sd_mecha.weighted_sum(model_a, model_b, alpha=alpha), output=_Into(live))

    single = model_configs.resolve("singleton-mecha")
    (key,) = single.keys()

    def flat_blocks(weights: BlockWeights) -> None:
        for block in BLOCKS:
            models = (sd_mecha.model({key: parts[block]}, single) for parts in (merge._a, merge._b))
            recipe = sd_mecha.weighted_sum(*models, alpha=weights[block])
            run(recipe, output=_Into({key: merge._live[block]}))

    return {"sd-mecha": one_recipe, "sd-mecha, flat blocks": flat_blocks}


class _Into(dict[str, Tensor]):
    """The tensors that a merge is written into, key by key."""

    def __setitem__(self, key: str, merged: Tensor) -> None:
        if key in self:  # it also sets metadata
            self[key].copy_(merged)


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


def keep_freed_memory() -> None:
    """From now on the heap shrinks only when `give_memory_back` says so."""
    if platform.libc_ver()[0] != "glibc":
        raise SystemExit("this benchmark controls glibc's heap; run it on a Linux that has glibc")
    libc = ctypes.CDLL(None)
    libc.mallopt(M_TRIM_THRESHOLD, -1)
    libc.mallopt(M_MMAP_MAX, 0)


def give_memory_back() -> None:
    ctypes.CDLL(None).malloc_trim(0)


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
    print(
        f"{figures['parameters']} parameters, fp16, {figures['device']}, {figures['threads']} threads, "
        f"rounds: {figures['rounds']}"
    )
    for name, value in seconds.items():
        ratio = f"LiveMerge is {faster[name]:.1f} x as fast" if name in faster else ""
        missed = ": missed" if name in faster and faster[name] < GOALS["faster_than"] else ""
        print(f"{name:34} {value * 1000:9.1f} ms  {ratio}{missed}")
    print(f"LiveMerge takes {figures['over_floor']:.2f} x the floor")
    print("goals: at most {over_floor} x the floor, {faster_than:.0f} x as fast as others".format(**GOALS))


if __name__ == "__main__":
    main()
