"""What only a GPU can show: the same numbers as on a CPU, scoring beside rendering, what fits its memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from optimizer.blocks import BlockWeights, uniform
from optimizer.rendered import Rendered
from optimizer.trial import PairEvaluator
from scoring.probes import Probe
from scoring.scorers.base import ScorerSpec
from service.presence import device_name, memory_of
from tests.unit.optimizer.sloped import all_of, cosine, slopes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an Nvidia GPU")
MIB = 2**20


@pytest.fixture
def specs(tiny_scorers: Path) -> list[ScorerSpec]:
    return [ScorerSpec(scorer="clip", model=str(tiny_scorers / "reward"))]


def pair(models: Path, specs: Sequence[ScorerSpec], device: str = "cuda", **options: Any) -> PairEvaluator:
    return PairEvaluator(
        models / "left.safetensors", models / "right.safetensors", specs, device=device, **options
    )


def probes(count: int, size: int = 32, **fields: Any) -> list[Probe]:
    how = {"steps": 4, "cfg_scale": 3.0, "sampler": "DPM++ 2M", "width": size, "height": size, **fields}
    return [Probe(prompt="a red apple", negative_prompt="a dog", seed=n, **how) for n in range(count)]


def rendered(
    evaluator: PairEvaluator, shown: Sequence[Probe], weights: BlockWeights | None = None
) -> list[Rendered]:
    return all_of(evaluator.evaluate(weights or uniform(evaluator.blocks, 0.3), shown))


def pixels(one: Rendered) -> Any:
    return np.asarray(one.image.convert("RGB"), dtype=np.int16)


def check_alike(found: Sequence[Rendered], wanted: Sequence[Rendered], levels: int) -> None:
    """Images no more than so many of 256 levels apart, and scores as alike as that makes them."""
    assert [one.probe for one in found] == [one.probe for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert np.abs(pixels(one) - pixels(other)).max() <= levels
        assert one.scores["clip"] == pytest.approx(other.scores["clip"], abs=2e-3)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"hires": {"scale": 2.0, "denoising_strength": 0.7, "steps": 3}, "freeu": {}, "rng": "CPU"},
        {"sampler": "Euler a", "rng": "NV"},
    ],
    ids=["plain", "hires and freeu", "ancestral"],
)
def test_images_and_scores_are_those_of_a_cpu(
    tiny_models: Path, specs: list[ScorerSpec], fields: dict[str, Any]
) -> None:
    shown = probes(3, **fields)
    check_alike(
        rendered(pair(tiny_models, specs), shown), rendered(pair(tiny_models, specs, "cpu"), shown), levels=2
    )


def test_slopes_are_those_of_a_cpu(tiny_models: Path, specs: list[ScorerSpec]) -> None:
    ours, theirs = (near_a_slopes(pair(tiny_models, specs, device)) for device in ("cuda", "cpu"))
    # In float32 torch lets a GPU's convolutions round to TF32.
    assert cosine(ours, theirs) > 0.99
    assert math.hypot(*ours.values()) == pytest.approx(math.hypot(*theirs.values()), rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_slopes_of_16_bits_point_where_those_of_32_do(
    tiny_models: Path, specs: list[ScorerSpec], dtype: torch.dtype
) -> None:
    ours, theirs = (near_a_slopes(pair(tiny_models, specs, dtype=used)) for used in (dtype, torch.float32))
    assert cosine(theirs, ours) > 0.9


def near_a_slopes(evaluator: PairEvaluator) -> BlockWeights:
    return slopes(evaluator, uniform(evaluator.blocks, 0.3), probes(2))


def test_scoring_beside_rendering_changes_no_number(tiny_models: Path, specs: list[ScorerSpec]) -> None:
    shown = probes(12)
    beside, after = (
        rendered(pair(tiny_models, specs, max_batch=2, overlap=overlap), shown) for overlap in (True, False)
    )
    check_alike(beside, after, levels=0)
    assert [one.scores for one in beside] == [one.scores for one in after]


def test_a_trial_is_the_same_to_the_bit_when_it_is_made_again(
    tiny_models: Path, specs: list[ScorerSpec]
) -> None:
    evaluator, shown = pair(tiny_models, specs, dtype=torch.float16), probes(6)
    first = rendered(evaluator, shown)
    rendered(evaluator, shown, uniform(evaluator.blocks, 0.9))
    check_alike(rendered(evaluator, shown), first, levels=0)


def test_what_fits_is_measured_once_and_read_by_the_next_process(
    tiny_models: Path, specs: list[ScorerSpec], tmp_path: Path
) -> None:
    file, shown = tmp_path / "limits.json", probes(2, 64)
    pair(tiny_models, specs).fit_batches(shown, file)
    measured = file.read_text()
    assert '"doing":"render"' in measured.replace(" ", "")
    pair(tiny_models, specs).fit_batches(shown, file)
    assert file.read_text() == measured


@pytest.mark.slow
def test_compiled_code_makes_the_same_images_and_is_made_once(
    tiny_models: Path, specs: list[ScorerSpec]
) -> None:
    shown = probes(4)
    compiled, plain = pair(tiny_models, specs, compile=True), pair(tiny_models, specs)
    counters.clear()
    rendered(compiled, shown)
    made = counters["stats"]["unique_graphs"]
    for alpha in (0.2, 0.8):
        weights = uniform(plain.blocks, alpha)
        check_alike(rendered(compiled, shown, weights), rendered(plain, shown, weights), levels=3)
    assert counters["stats"]["unique_graphs"] == made >= 1


def test_a_worker_says_which_gpu_it_has_and_how_full_it_is() -> None:
    assert device_name("cuda:0") == torch.cuda.get_device_name(0)
    before = memory_of("cuda:0")
    held = torch.ones(256 * MIB, dtype=torch.uint8, device="cuda:0")
    after = memory_of("cuda:0")
    assert before.used is not None
    assert after.used is not None
    assert before.total is not None
    assert after.used - before.used >= len(held) // 2  # some of it may have been reserved before
    assert after.used < before.total
