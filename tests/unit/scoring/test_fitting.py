"""Batches as large as memory takes: real allocations of a real render, counted on the CPU."""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scoring.probes import Probe
from scoring.rendering.fitting import MARGIN, fit_batches, largest, measure_batches
from scoring.rendering.limits import BatchLimits, model_key
from scoring.rendering.memory import Kind
from scoring.rendering.renderer import Renderer
from tests.unit.scoring import models

NARROW, WIDE = Kind("render", 32, 32, 2), Kind("render", 64, 32, 2)


class CpuGauge(TorchDispatchMode):
    """Counts the bytes of every storage that an operator makes on the CPU, until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self._known: set[int] = set()
        self._held = self._peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage()._cdata for leaf in _tensors((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for leaf in _tensors(made):
            if leaf.untyped_storage()._cdata not in given:  # a view is no allocation
                self._count(leaf.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._known:
            return
        self._known.add(address)
        self._held += size
        self._peak = max(self._peak, self._held)
        weakref.finalize(storage, self._freed, address, size)

    def _freed(self, address: int, size: int) -> None:
        self._known.discard(address)
        self._held -= size

    def held(self) -> int:
        return self._held

    def peak(self) -> int:
        return self._peak

    def reset(self) -> None:
        self._peak = self._held


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def probe(**changes: Any) -> Probe:
    usual = {"prompt": "a cat", "seed": 1, "steps": 3, "width": 32, "height": 32, "sampler": "Euler"}
    return Probe.model_validate({**usual, **changes})


def limits(folder: Path, **changes: Any) -> BatchLimits:
    key: dict[str, Any] = {"device": "card", "memory": 100, "model": "m", "dtype": torch.float16, **changes}
    return BatchLimits(folder / "limits.json", **key)


def peak_of(renderer: Renderer, count: int, kind: Kind) -> int:
    gauge = CpuGauge()
    with torch.no_grad(), gauge, renderer.memory.measuring(gauge) as peaks:
        list(renderer.render([probe(seed=seed, steps=2) for seed in range(count)]))
    return peaks[kind, count]


def test_one_and_two_images_tell_what_many_need() -> None:
    renderer = Renderer(models.sd1(), "cpu", 12)
    for kind in (NARROW, Kind("decode", 32, 32, 1)):
        peaks = {(kind, count): peak_of(renderer, count, kind) for count in (1, 2)}
        assert peaks[kind, 2] > peaks[kind, 1] > 0
        needed = peak_of(renderer, 9, kind)
        most = largest(peaks, int(needed / (1 - MARGIN) * 1.02))[kind]
        assert most == 9, (kind, peaks, needed)


@pytest.mark.parametrize(
    ("one", "two", "free", "most"),
    [
        (300, 400, 1000, 6),  # 200 fixed, 100 each, 800 usable
        (100, 200, 1000, 8),
        (100, 250, 1000, 5),  # no less than nothing is fixed
        (100, 100, 1000, 701),
        (5000, 9000, 1000, 1),
    ],
)
def test_the_largest_batch_by_hand(one: int, two: int, free: int, most: int) -> None:
    assert largest({(NARROW, 1): one, (NARROW, 2): two}, free) == {NARROW: most}


def test_what_was_measured_on_one_image_alone_tells_nothing() -> None:
    assert largest({(NARROW, 1): 7}, 1000) == {}


def test_batches_are_measured_once_and_remembered(tmp_path: Path) -> None:
    probes = [probe(seed=seed, width=width) for width in (32, 64) for seed in range(6)]
    renderer = Renderer(models.sd1(), "cpu", 6)
    free = int(peak_of(renderer, 4, NARROW) / (1 - MARGIN) * 1.02)
    calls: list[int] = []
    renderer.components.unet.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    gauge = CpuGauge()
    with gauge:
        measure_batches(renderer, probes, limits(tmp_path), gauge, free)
    # Guidance makes two rows of an image: two images to warm up, one, and two, each in two steps.
    assert calls == [4, 4, 2, 2, 4, 4] * 2
    found = limits(tmp_path).known()
    assert found[NARROW] == 4
    assert 1 <= found[WIDE] < 4
    with torch.no_grad():
        batches = [indices for indices, _ in renderer.render(probes)]
    assert batches[:2] == [[0, 1, 2], [3, 4, 5]]
    assert max(len(indices) for indices in batches[2:]) <= found[WIDE]
    assert renderer.notices == []

    again = Renderer(models.sd1(), "cpu", 6)
    again.components.unet.register_forward_pre_hook(lambda _, inputs: calls.append(-1))
    measure_batches(again, probes, limits(tmp_path), gauge, free * 100)
    assert -1 not in calls
    with torch.no_grad():
        assert [indices for indices, _ in again.render(probes)] == batches


def test_what_does_not_fit_in_spite_of_it_is_remembered_too(tmp_path: Path) -> None:
    probes = [probe(seed=seed) for seed in range(8)]
    renderer = Renderer(models.sd1(), "cpu", 8)

    def hook(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > 2 * 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    renderer.components.unet.register_forward_pre_hook(hook)
    gauge = CpuGauge()
    with gauge:
        measure_batches(renderer, probes, limits(tmp_path), gauge, 10**12)
    assert limits(tmp_path).known()[NARROW] > 8
    with torch.no_grad():
        batches = [indices for indices, _ in renderer.render(probes)]
    assert batches == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert limits(tmp_path).known()[NARROW] == 2
    again = Renderer(models.sd1(), "cpu", 8)
    measure_batches(again, probes, limits(tmp_path), gauge, 10**12)
    with torch.no_grad():
        assert [indices for indices, _ in again.render(probes)] == batches
    assert again.notices == []


def test_a_probe_that_cannot_be_rendered_is_left_to_the_trial(tmp_path: Path) -> None:
    renderer = Renderer(models.sd1(), "cpu", 4)
    with torch.no_grad():
        renderer.components.unet.conv_out.weight.fill_(float("nan"))
    gauge = CpuGauge()
    measure_batches(renderer, [probe()], limits(tmp_path), gauge, 10**12)
    assert limits(tmp_path).known() == {}


def test_a_cpu_measures_nothing(tmp_path: Path) -> None:
    fit_batches(Renderer(models.sd1(), "cpu", 4), [probe()], tmp_path / "limits.json")
    assert not (tmp_path / "limits.json").exists()


def test_limits_are_those_of_one_model_on_one_device_and_only_become_smaller(tmp_path: Path) -> None:
    ours = limits(tmp_path)
    assert ours.put(NARROW, 8) == 8
    assert ours.put(WIDE, 3) == 3
    others: list[dict[str, Any]] = [
        {"device": "other"},
        {"memory": 101},
        {"model": "n"},
        {"dtype": torch.float32},
    ]
    for number, other in enumerate(others):
        assert limits(tmp_path, **other).known() == {}
        assert limits(tmp_path, **other).put(NARROW, 20 + number) == 20 + number
    assert limits(tmp_path).put(NARROW, 9) == 8
    assert limits(tmp_path).put(NARROW, 5) == 5
    assert ours.known() == {NARROW: 5, WIDE: 3}
    assert [limits(tmp_path, **other).known() for other in others] == [{NARROW: 20 + n} for n in range(4)]
    assert [path.name for path in tmp_path.iterdir()] == ["limits.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"limits": [{"device": 1}]}'])
def test_a_broken_file_is_begun_anew_and_a_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    (tmp_path / "limits.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert limits(tmp_path).known() == {}
    assert "limits.json can't be read and is begun anew" in caplog.text
    limits(tmp_path).put(NARROW, 2)
    assert limits(tmp_path).known() == {NARROW: 2}
    assert json.loads((tmp_path / "limits.json").read_text())["limits"][0]["device"] == "card"


def test_a_models_key_is_its_architecture() -> None:
    assert model_key(models.sd1()) == model_key(models.sd1())
    assert len({model_key(make()) for make in (models.sd1, models.sd2, models.emoji)}) == 3
