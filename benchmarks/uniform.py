"""How fast the uniform merge of eight checkpoints is: against `cat` of the same bytes, and against sd-mecha.

Eight files with random weights of the size of SD1.5's UNet (860 M parameters, fp16, 1.7 GB each; `--quick`:
of the zoo's), their mean in one file, on the disk (fsync). Each way runs in a process of its own, in turn,
round by round. `cat` reads the eight files into /dev/null; `cat and write` also writes one file of that
size to the disk, so that it moves the same bytes as a merge. Memory is what a process grows by at its
peak, over what it has with its libraries loaded; files that are mapped count while they are resident.

sd-mecha merges the same files by its `n_average` in fp32 to fp16, from disk to disk, with all its checks off.
Its mean is compared with ours.

    python -m benchmarks.uniform [--quick] [--rounds N] [--folder DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch

from optimizer.checkpoints import Entry, expected_tensors, open_checkpoint, write_streamed
from optimizer.components import average

COUNT = 8
GOALS = {"over_cat": 2.0, "faster_than_mecha": 2.0, "memory_mb": 500.0}
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="files of the zoo's size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="where the files are made and removed; 17 GB, quick 0.2 GB"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = measure(Path(folder), "emoji" if arguments.quick else "sd1", arguments.rounds)
    print_table(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(folder: Path, architecture: str, rounds: int) -> dict[str, object]:
    """Seconds and MB of each way, and their ratios."""
    shapes = expected_tensors(architecture).unet
    size = 2 * sum(torch.Size(shape).numel() for shape in shapes.values())
    if shutil.disk_usage(folder).free < (COUNT + 3) * size:
        raise SystemExit(f"{folder} has no room for {(COUNT + 3) * size / 1e9:.0f} GB; give another --folder")
    paths = [write_random(folder / f"{seed}.safetensors", architecture, seed) for seed in range(COUNT)]
    ways: dict[str, Callable[[Sequence[Path], Path, str], Figures]] = {
        "cat": cat,
        "cat and write": cat_and_write,
        "autombw": ours,
    }
    if has_mecha():
        ways["sd-mecha"] = mecha
    rows: dict[str, list[Figures]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            rows[name].append(in_a_process(way, paths, folder / f"{name}.safetensors", architecture))
    seconds = {name: statistics.median(row["seconds"] for row in found) for name, found in rows.items()}
    return {
        "architecture": architecture,
        "files": COUNT,
        "gb_each": size / 1e9,
        "rounds": rounds,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "seconds": seconds,
        "cpu_seconds": {name: statistics.median(r["cpu"] for r in found) for name, found in rows.items()},
        "grown_mb": {name: max(row["grown_mb"] for row in found) for name, found in rows.items()},
        "ratio": {name: ratio(rows["autombw"], found) for name, found in rows.items()},
        "largest_difference": difference(folder) if "sd-mecha" in rows else None,
    }


def write_random(path: Path, architecture: str, seed: int) -> Path:
    """A UNet of random weights: one drawn block of numbers over and over, which no merge can know."""
    numbers = torch.randn(1 << 20, generator=torch.Generator().manual_seed(seed)).mul_(0.05).half()
    shapes = expected_tensors(architecture).unet

    def produce(key: str) -> torch.Tensor:
        numel = torch.Size(shapes[key]).numel()
        return numbers.repeat(-(-numel // len(numbers)))[:numel].view(shapes[key])

    write_streamed(path, {key: Entry(torch.float16, shape) for key, shape in shapes.items()}, produce, {})
    return path


def in_a_process(
    way: Callable[[Sequence[Path], Path, str], Figures], paths: Sequence[Path], out: Path, architecture: str
) -> Figures:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(way, paths, out, architecture).result()


def cat(paths: Sequence[Path], _out: Path, _architecture: str) -> Figures:
    return timed(lambda: read_all(paths))


def cat_and_write(paths: Sequence[Path], out: Path, _architecture: str) -> Figures:
    def run() -> None:
        read_all(paths[1:])
        with out.open("wb") as file:
            subprocess.run(["cat", paths[0]], check=True, stdout=file)
            os.fsync(file.fileno())

    return timed(run)


def ours(paths: Sequence[Path], out: Path, architecture: str) -> Figures:
    expected_tensors(architecture)  # sd-mecha has its config before the clock starts too
    return timed(lambda: average(paths, ["unet"], out, metadata={}, dtype=torch.float16))


def mecha(paths: Sequence[Path], out: Path, architecture: str) -> Figures:
    import sd_mecha
    from sd_mecha.extensions import model_configs
    from tqdm import tqdm  # type: ignore[import-untyped]

    logging.getLogger().setLevel(logging.ERROR)
    # It knows SD1 by itself; the keys of the zoo are given to it as a config of our own.
    config = (
        model_configs.resolve("sd1-ldm")
        if architecture == "sd1"
        else model_configs.ModelConfigImpl(
            "zoo-ldm",
            {
                "unet": {
                    key: model_configs.KeyMetadata(torch.Size(shape), torch.float16)
                    for key, shape in expected_tensors(architecture).unet.items()
                }
            },
        )
    )
    if architecture != "sd1":
        model_configs.register(config)
    recipe = sd_mecha.n_average(*(sd_mecha.model(path, config) for path in paths))

    def run() -> None:
        sd_mecha.merge(
            recipe,
            output=out,
            merge_dtype=torch.float32,
            output_dtype=torch.float16,
            threads=os.cpu_count(),
            strict_mandatory_keys=False,
            check_extra_keys=False,
            check_finite_output=False,
            omit_non_finite_inputs=False,
            memoize_intermediates=False,
            validate_mm_contract=False,
            tqdm=partial(tqdm, disable=True),
        )
        with out.open("rb") as file:
            os.fsync(file.fileno())

    return timed(run)


def timed(run: Callable[[], object]) -> Figures:
    """Wall and CPU seconds, children's too, and by how many MB the process has grown at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = memory_mb("VmRSS")
    started, cpu = time.perf_counter(), os.times()
    run()
    seconds, after = time.perf_counter() - started, os.times()
    used = sum(after[:4]) - sum(cpu[:4])
    return {"seconds": seconds, "cpu": used, "grown_mb": memory_mb("VmHWM") - before}


def memory_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def read_all(paths: Sequence[Path]) -> None:
    subprocess.run(["cat", *paths], check=True, stdout=subprocess.DEVNULL)


def has_mecha() -> bool:
    try:
        import sd_mecha
    except ImportError:
        print("sd-mecha is not installed and left out; pip install -e '.[bench]' brings it")
        return False
    return bool(sd_mecha)


def ratio(ours: Sequence[Figures], theirs: Sequence[Figures]) -> float:
    """The median over the rounds of our time over theirs."""
    return statistics.median(a["seconds"] / b["seconds"] for a, b in zip(ours, theirs, strict=True))


def difference(folder: Path) -> float:
    """The largest difference between the two means."""
    with (
        open_checkpoint(folder / "autombw.safetensors") as a,
        open_checkpoint(folder / "sd-mecha.safetensors") as b,
    ):
        return max(float((a.tensor(k).float() - b.tensor(k).float()).abs().max()) for k in a.entries)


def print_table(figures: Mapping[str, object]) -> None:
    seconds, cpu, grown, ratios = (figures[k] for k in ("seconds", "cpu_seconds", "grown_mb", "ratio"))
    assert isinstance(seconds, dict)
    assert isinstance(cpu, dict)
    assert isinstance(grown, dict)
    assert isinstance(ratios, dict)
    print(
        f"{figures['files']} files of {figures['gb_each']:.2f} GB, {figures['cores']} cores, load "
        f"{figures['load']:.1f}, rounds: {figures['rounds']}"
    )
    for name, value in seconds.items():
        print(
            f"{name:14} {value:7.2f} s  CPU {cpu[name]:7.2f} s  grown {grown[name]:7.0f} MB  "
            f"autombw takes {ratios[name]:.2f} x its time"
        )
    print(f"largest difference from sd-mecha's mean: {figures['largest_difference']}")
    print(
        "goals: at most {over_cat:.0f} x `cat`, {faster_than_mecha:.0f} x as fast as sd-mecha, growth of one "
        "tensor x N + {memory_mb:.0f} MB".format(**GOALS)
    )


if __name__ == "__main__":
    main()
