"""A service under load: people with the page open, programs that read, and a worker beside them.

A job of 100,000 renders is gone on with by a real worker while a real `autombw serve` answers readers at a
fixed rate and keeps 200 pages up to date, all with tokens. Latencies count from when a request was due. The
load generator runs on the same cores, and what it takes of them is told.
The worker's model is a tiny one of random weights; `--steps` says how long it takes for an image.
Goals: p99 at most 200 ms, no error, renders at most 5 % slower, no growth of the server's memory.
`python -m benchmarks.load [--minutes 10 | --seconds N] [--clients 200] [--rate 500 ...] [--steps N]`
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.loading import pages, readers
from benchmarks.loading.ceiling import highest_rate
from benchmarks.loading.pages import PageFigures, Visit
from benchmarks.loading.readers import FIRST_SECONDS, ReadFigures

if TYPE_CHECKING:
    from benchmarks.loading.installation import Installation
    from benchmarks.loading.watching import Watched

GOAL_P99, GOAL_SLOWER = 0.2, 0.05
ALONE_SECONDS = 30.0
COST_TIMES = 50
STEPS = 40
"""With so many a core of ours takes about half a second for an image, as a fast GPU does for one of SD2.1."""
MB = 1e6


def measure(
    folder: Path,
    *,
    renders: int,
    steps: int,
    rates: list[float],
    clients: int,
    seconds: float,
    streams: int,
    alone: float,
) -> dict[str, Any]:
    """Load an installation at one rate after the other. alone: seconds for the worker by itself."""
    # Here, since the processes that make the load import this module too and need no torch.
    from benchmarks.loading.installation import installation
    from benchmarks.loading.watching import cost_of_reads, trials_ended

    with installation(folder, renders, steps) as found:
        print(f"server {found.api.pid}, worker {found.worker.pid}, {os.cpu_count()} cores", flush=True)
        found.site.wait(lambda: trials_ended(found) > 0, "the worker's first trial")
        by_itself = _watched(found, alone)
        costs = cost_of_reads(found, COST_TIMES)
        stretches = [_loaded(found, rate, clients, seconds, streams) for rate in rates]
        # What else the machine does changes: the worker is looked at again.
        afterwards = _watched(found, alone)
        tally = by_itself, afterwards
        return {
            "renders": renders,
            "steps": steps,
            "clients": clients,
            "streams": streams,
            "seconds": seconds,
            "highest_rate_of_generator": highest_rate(),
            "alone": {
                "renders_per_second": float(np.mean([part.renders_per_second for part in tally])),
                "cpu_per_render": float(np.mean([part.cpu_per_render for part in tally])),
            },
            "cost_of_reads": costs,
            "stretches": stretches,
        }


def _watched(found: Installation, seconds: float) -> Watched:
    from benchmarks.loading.watching import Watch

    with Watch(found) as watch:
        time.sleep(seconds)
    return watch.found


def _loaded(found: Installation, rate: float, clients: int, seconds: float, streams: int) -> dict[str, Any]:
    """One stretch: all pages are open before the reads begin, and until they end."""
    from benchmarks.loading.watching import Watch, target_of

    target = target_of(found)
    node = f"/jobs/{found.job_id}/nodes/{found.node}"
    visit = Visit(found.url, found.token, ["/", "/", f"/jobs/{found.job_id}", node, "/workers"])
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as processes, spawn.Manager() as manager:
        opened, over = manager.Event(), manager.Event()
        browsing = processes.submit(pages.watch, visit, clients, opened, over)
        while not opened.wait(0.5):
            if browsing.done():
                browsing.result()
        with Watch(found) as watch:
            read = processes.submit(readers.read, target, rate, seconds, streams).result()
        over.set()
        browsed = browsing.result()
    return {
        "rate": rate,
        **_of_reads(read),
        "pages": _of_pages(browsed),
        "server": {
            "cpu": watch.found.server_cpu,
            "memory_mb": [round(sample / MB, 1) for sample in watch.found.memory],
            "growth_mb_per_minute": watch.found.growth_per_minute() / MB,
        },
        "worker": {
            "cpu": watch.found.worker_cpu,
            "machine_cpu": watch.found.machine_cpu,
            "renders_per_second": watch.found.renders_per_second,
            "cpu_per_render": watch.found.cpu_per_render,
        },
    }


def _of_reads(read: ReadFigures) -> dict[str, Any]:
    together = [latency for reads in read.kinds.values() for latency in reads.seconds]
    later = [latency for reads in read.kinds.values() for latency in reads.later]
    kinds = {
        name: {"reads": len(reads.seconds), "not_modified": reads.not_modified, "errors": reads.errors}
        | _quantiles(reads.seconds)
        for name, reads in read.kinds.items()
    }
    return {
        "kinds": kinds,
        "all": {"reads": len(together), "errors": sum(sum(r.errors.values()) for r in read.kinds.values())}
        | _quantiles(together),
        "later": _quantiles(later),
        "answered_per_second": len(together) / read.wall,
        "generator": {"cpu": read.cpu, "late_p99": read.late},
        "streams": {"events": read.events, "broken": read.streams_broken},
    }


def _quantiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    values = np.quantile(seconds, (0.5, 0.95, 0.99, 1.0)).tolist()
    return dict(zip(("p50", "p95", "p99", "max"), values, strict=True))


def _of_pages(browsed: PageFigures) -> dict[str, Any]:
    found = asdict(browsed)
    return {**found, "opened": _quantiles(browsed.opened)}


def show(found: dict[str, Any]) -> None:
    """Print what a read costs, and for every rate a table of the reads and one of all else."""
    console = Console()
    table = Table("one read after the other", "CPU of the server, ms", "ms", box=None)
    costs = found["cost_of_reads"]
    for name, row in costs.items():
        table.add_row(name, _ms(row["cpu"], 1), _ms(row["seconds"]))
    table.add_row("one of the mix", _ms(sum(row["share"] * row["cpu"] for row in costs.values()), 1), "")
    console.print(table)
    for part in found["stretches"]:
        table = Table(
            f"{part['rate']:g} a second, ms", "reads", "304", "p50", "p95", "p99", "errors", box=None
        )
        for name, row in {**part["kinds"], "all": part["all"]}.items():
            quantiles = [_ms(row[key]) if key in row else "" for key in ("p50", "p95", "p99")]
            table.add_row(
                name, str(row["reads"]), str(row.get("not_modified", "")), *quantiles, _errors(row["errors"])
            )
        console.print(table)
        table = Table(f"beside {part['rate']:g} reads a second", "", "goal", box=None)
        for line in _beside(found, part):
            table.add_row(*line)
        console.print(table)
    print(f"the generator reaches {found['highest_rate_of_generator']:.0f} requests/s of a trivial server")


def _ms(seconds: float, digits: int = 0) -> str:
    return f"{1000 * seconds:.{digits}f}"


def _errors(errors: dict[str, int] | int) -> str:
    if isinstance(errors, int):
        return str(errors)
    return ", ".join(f"{count} {what}" for what, count in errors.items()) or "0"


def _beside(found: dict[str, Any], part: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(what, figure, goal) of everything but the single kinds of reads."""
    server, worker, browsed, alone = part["server"], part["worker"], part["pages"], found["alone"]
    nothing = float("nan")
    yield "p99 of all reads", f"{_ms(part['all'].get('p99', nothing))} ms", f"{_ms(GOAL_P99)} ms"
    if part["later"]:
        later = ", ".join(f"{name} {_ms(part['later'][name])} ms" for name in ("p50", "p95", "p99"))
        yield f"of those after {FIRST_SECONDS:.0f} s", later, ""
    yield "errors", str(part["all"]["errors"]), "0"
    yield "answered", f"{part['answered_per_second']:.0f} a second", f"{part['rate']:g}"
    opened = (
        f"{browsed['connected']} of {found['clients']}; {browsed['lost']} lost, {browsed['failed']} failed"
    )
    yield "pages open at the end", opened, str(found["clients"])
    yield "messages to pages", f"{browsed['messages']}, {browsed['bytes'] / MB:.0f} MB", ""
    yield "a page opens in, median", f"{_ms(browsed['opened'].get('p50', nothing))} ms", ""
    streams = f"{found['streams']}; {part['streams']['broken']} broken, {part['streams']['events']} events"
    yield "event streams", streams, "0 broken"
    pace = worker["renders_per_second"] / alone["renders_per_second"] - 1
    renders = f"{worker['renders_per_second']:.2f}; alone {alone['renders_per_second']:.2f}: {pace:+.0%}"
    yield "renders a second", renders, f"at most -{GOAL_SLOWER:.0%}"
    yield (
        "CPU seconds of a render",
        f"{worker['cpu_per_render']:.3f}; alone {alone['cpu_per_render']:.3f}",
        "",
    )
    memory, growth = server["memory_mb"], server["growth_mb_per_minute"]
    grown = f"{memory[0]:.0f} to {memory[-1]:.0f} MB; second half {growth:+.2f} MB a minute"
    yield "server's memory", grown, "no growth"
    ours = {
        "server": server["cpu"],
        "worker": worker["cpu"],
        "readers": part["generator"]["cpu"],
        "pages": browsed["cpu"],
    }
    shares = ", ".join(f"{name} {share:.0%}" for name, share in ours.items())
    yield "shares of a core", f"{shares}; all programs {worker['machine_cpu']:.0%}", ""
    yield "the generator's own delay, p99", f"{_ms(part['generator']['late_p99'])} ms", ""


def main() -> None:
    """Print the tables; --json FILE writes the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--minutes", type=float, default=10.0, help="of load, at each rate")
    parser.add_argument("--seconds", type=float, help="the same, for short runs")
    parser.add_argument(
        "--alone", type=float, default=ALONE_SECONDS, help="seconds of the worker by itself, twice"
    )
    parser.add_argument(
        "--rate", type=float, nargs="+", default=[500.0], help="reads a second, one after the other"
    )
    parser.add_argument("--clients", type=int, default=200, help="pages that are open")
    parser.add_argument("--streams", type=int, default=10, help="event streams that are followed")
    parser.add_argument("--renders", type=int, default=100_000, help="of the job")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the sampler, for every image")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="autombw-load-") as folder:
        found = measure(
            Path(folder),
            renders=arguments.renders,
            steps=arguments.steps,
            rates=arguments.rate,
            clients=arguments.clients,
            seconds=arguments.seconds or 60 * arguments.minutes,
            streams=arguments.streams,
            alone=arguments.alone,
        )
    show(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
