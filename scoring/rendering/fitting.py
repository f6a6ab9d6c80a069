"""The largest batch that fits a GPU: measured on one image and on two, before the first trial."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from scoring.errors import TrialFailed
from scoring.probes import Probe
from scoring.rendering.limits import BatchLimits, model_key
from scoring.rendering.memory import Gauge, Kind
from scoring.rendering.renderer import Renderer

log = logging.getLogger(__name__)
MARGIN = 0.2
"""The share of the free memory that batches leave: scorers run beside them, and memory has gaps."""
# One alone is no schedule for some samplers.
_STEPS = 2


class CudaGauge:
    """What torch has allocated on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def held(self) -> int:
        """Now, in bytes."""
        return int(torch.cuda.memory_allocated(self._device))

    def peak(self) -> int:
        """At most since `reset`, in bytes."""
        return int(torch.cuda.max_memory_allocated(self._device))

    def reset(self) -> None:
        """Begin a new peak."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def free(self) -> int:
        """Bytes that could be allocated beside what is held."""
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self._device)[0])


def fit_batches(renderer: Renderer, probes: Sequence[Probe], file: Path) -> None:
    """Let `renderer` batch `probes` as its device's memory allows: on CUDA measured, elsewhere nothing.

    What is measured is kept in `file` (see `BatchLimits`), and so is every batch that does not fit in spite
    of it. A process that finds it there measures nothing and makes the very same batches: which probes share
    one changes an image by rounding, and a trial that is gone on with must not differ from itself.
    """
    if renderer.device.type != "cuda":
        return
    properties: Any = torch.cuda.get_device_properties(renderer.device)
    gauge = CudaGauge(renderer.device)
    limits = BatchLimits(
        file,
        device=properties.name,
        memory=properties.total_memory,
        model=model_key(renderer.components),
        dtype=renderer.components.unet.dtype,
    )
    measure_batches(renderer, probes, limits, gauge, gauge.free())


def measure_batches(
    renderer: Renderer, probes: Sequence[Probe], limits: BatchLimits, gauge: Gauge, free: int
) -> None:
    """Measure what is not known in `limits`, and let `renderer` begin with all of it.

    free: bytes that are free beside what `gauge` holds. A probe that can't be rendered is left out: the trial
    will say why.
    """
    memory = renderer.memory
    memory.begin_with(limits.known(), limits.put)
    known = set(limits.known())
    for probe in probes:
        kind = renderer.kind(probe)
        if kind in known:
            continue
        known.add(kind)
        peaks = _peaks(renderer, probe, gauge)
        found = {kind: most for kind, most in largest(peaks, free).items() if kind not in limits.known()}
        memory.begin_with({kind: limits.put(kind, most) for kind, most in found.items()}, limits.put)
        for (doing, width, height, _), most in found.items():
            log.info("up to %d images of %dx%d fit %s to %s", most, width, height, renderer.device, doing)


def shortened(probe: Probe) -> Probe:
    """What is rendered to measure the memory of a probe: it does not depend on the number of steps."""
    return probe.model_copy(update={"steps": min(probe.steps, _STEPS)})


def largest(peaks: Mapping[tuple[Kind, int], int], free: int) -> dict[Kind, int]:
    """The largest batch of each kind, at least 1, from the bytes that 1 and 2 images needed at their peak.

    peak(n) = fixed + n * each, and n images fit when that is within 1 - MARGIN of the free bytes.
    """
    found = {}
    for kind in {kind for kind, _ in peaks}:
        one, two = peaks.get((kind, 1)), peaks.get((kind, 2))
        if one is None or two is None:
            continue
        each = max(two - one, 1)
        fixed = max(one - each, 0)
        found[kind] = max(1, int((free * (1 - MARGIN) - fixed) // each))
    return found


def _peaks(renderer: Renderer, probe: Probe, gauge: Gauge) -> dict[tuple[Kind, int], int]:
    """Bytes at the peak of one image and of two; steps and images are those of no trial."""
    short = shortened(probe)
    two = [short, short.model_copy(update={"seed": (short.seed + 1) % 2**32})]
    # What a process allocates only once must not count as a share of one image. Compiled code is made for
    # its batch, and needs no more than this.
    with torch.compiler.set_stance("force_eager"):
        _render(renderer, two)
        with renderer.memory.measuring(gauge) as peaks:
            _render(renderer, two[:1])
            _render(renderer, two)
            return dict(peaks)


def _render(renderer: Renderer, probes: Sequence[Probe]) -> None:
    try:
        with torch.no_grad():
            for _ in renderer.render(probes):
                pass
    except TrialFailed as error:
        log.info("not measured: %s", error)
