"""Slopes of a trial against differences, whatever is rendered, and where there are none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

from optimizer.blocks import BlockWeights, uniform
from optimizer.gradients import BlockGradients
from optimizer.rendered import Rendered
from optimizer.slopes import NoSlopes
from optimizer.trial import PairEvaluator
from scoring.probes import DynamicThresholding, FreeU, FreeUStage, Hires, Probe
from scoring.rendering.memory import DoesNotFit
from scoring.scorers.base import ScorerSpec
from tests.unit.optimizer.sloped import RATES, all_of, cosine, slopes

STAGES = (FreeUStage(backbone_factor=1.3, skip_factor=0.7),) * 3


def probe(number: int = 0, **fields: Any) -> Probe:
    how: dict[str, Any] = {"sampler": "DPM++ 2M", "steps": 3, "cfg_scale": 3.0, "width": 32, "height": 32}
    return Probe(prompt=("a cat", "a red apple", "a dog")[number], seed=number + 1, **{**how, **fields})


@pytest.fixture
def pair(tiny_models: Path, tiny_scorers: Path) -> PairEvaluator:
    scorers = [ScorerSpec(scorer="clip", model=str(tiny_scorers / "reward")), ScorerSpec(scorer="contrast")]
    return PairEvaluator(
        tiny_models / "left.safetensors", tiny_models / "right.safetensors", scorers, max_batch=2
    )


def kept_graph_slopes(pair: PairEvaluator, weights: BlockWeights, probes: Sequence[Probe]) -> BlockWeights:
    """The same by a graph of all steps that autograd keeps."""
    pair.merge.apply(weights)
    merged = pair._merged
    with torch.enable_grad(), pair.merge.gradients() as gradients:
        for indices, images in merged.renderer.render(probes):
            prompts = [probes[i].prompt for i in indices]
            (merged.scorers["clip"].score(images, prompts).sum() / len(probes)).backward()
        return gradients.slopes()


class Pattern:
    """How much an image looks like noise: summed in float64, since random models hardly differ to a CLIP."""

    name, differentiable = "clip", True

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        noise = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(5))
        return (images.double() * noise).sum((1, 2, 3))


@pytest.mark.slow
def test_slopes_are_central_differences(pair: PairEvaluator) -> None:
    pair._merged.scorers["clip"] = Pattern()
    probes = [probe(0, steps=2), probe(1, steps=2)]
    here = uniform(pair.blocks, 0.5)

    def score(weights: BlockWeights) -> float:
        return fmean(one.scores["clip"] for one in all_of(pair.evaluate(weights, probes)))

    found = slopes(pair, here, probes)
    differences = {
        block: (score({**here, block: 0.6}) - score({**here, block: 0.4})) / 0.2 for block in pair.blocks
    }
    assert cosine(found, differences) > 0.99
    assert math.hypot(*found.values()) == pytest.approx(math.hypot(*differences.values()), rel=0.05)


FREEU_AND_HIRES = {"freeu": FreeU(stages=STAGES), "hires": Hires(scale=2.0, upscaler="Latent")}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        FREEU_AND_HIRES,
        {"thresholding": DynamicThresholding(mimic_scale=2.0)},
        {"sampler": "DPM++ 2M SDE Karras"},
        {"sampler": "UniPC", "cfg_rescale": 0.5},
        {"sampler": "PLMS"},
        {"sampler": "Restart"},
    ],
    ids=lambda fields: "+".join(map(str, fields)) or "plain",
)
def test_steps_that_are_evaluated_again_give_the_slopes_of_a_kept_graph(
    pair: PairEvaluator, fields: dict[str, Any]
) -> None:
    probes, here = [probe(0, **fields)], uniform(pair.blocks, 0.4)
    check_close(slopes(pair, here, probes), kept_graph_slopes(pair, here, probes))


def test_so_do_blocks_that_are_evaluated_again_with_freeu_in_them(pair: PairEvaluator) -> None:
    probes, here = [probe(0, **FREEU_AND_HIRES)], uniform(pair.blocks, 0.4)
    wanted = kept_graph_slopes(pair, here, probes)
    pair._slopes._spare_memory()
    check_close(slopes(pair, here, probes), wanted)


def check_close(found: BlockWeights, wanted: BlockWeights) -> None:
    apart = math.dist([found[block] for block in wanted], list(wanted.values()))
    assert apart < 1e-3 * math.hypot(*wanted.values())


def test_scores_are_those_of_a_plain_trial_and_callbacks_come_once_an_evaluation(pair: PairEvaluator) -> None:
    probes, here = [probe(0), probe(1)], uniform(pair.blocks, 0.4)
    calls: list[bool] = []
    plain = all_of(pair.evaluate(here, probes, None, lambda: calls.append(False)))
    sloped = all_of(pair.slopes(here, probes, RATES, None, lambda: calls.append(True)))
    assert calls.count(True) == calls.count(False) == 3
    for one, other in zip(plain, sloped, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
        assert one.slopes is None
    assert pair.seconds.slope > 0
    assert not torch.is_grad_enabled() or not any(p.requires_grad for p in pair.merge.unet.parameters())


def test_the_shares_of_what_was_left_make_up_the_same_slopes(pair: PairEvaluator) -> None:
    probes, here = [probe(0), probe(1), probe(2)], uniform(pair.blocks, 0.4)
    whole = all_of(pair.slopes(here, probes, RATES))
    first = next(pair.slopes(here, probes, RATES))
    rest = all_of(pair.slopes(here, probes, RATES, [2]))
    assert [one.slopes for one in [*first, *rest]] == [one.slopes for one in whole]


def test_a_scorer_that_counts_reversed_turns_its_slopes(pair: PairEvaluator) -> None:
    probes, here = [probe(0)], uniform(pair.blocks, 0.4)
    turned = all_of(pair.slopes(here, probes, {"clip": -2.0, "contrast": 1.0}))[0].slopes or {}
    check_close(turned, {block: -2 * slope for block, slope in slopes(pair, here, probes).items()})


def test_there_are_none_where_no_scorer_that_counts_is_differentiable(pair: PairEvaluator) -> None:
    with pytest.raises(NoSlopes, match="no scorer that counts is differentiable: contrast"):
        next(pair.slopes(uniform(pair.blocks, 0.4), [probe()], {"contrast": 1.0, "clip": 0.0}))


def out_of_memory(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_backward_pass_that_does_not_fit_is_done_in_halves_then_by_blocks_then_given_up(
    pair: PairEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes, here = [probe(0), probe(1)], uniform(pair.blocks, 0.4)
    wanted = slopes(pair, here, probes)
    most = [1]
    real = pair._slopes._differentiated

    def limited(images: Tensor, *others: Any) -> list[Rendered]:
        fits = len(images) <= most[0] or pair.merge.unet.is_gradient_checkpointing
        if not fits or most[0] < 0:
            out_of_memory()
        return real(images, *others)

    monkeypatch.setattr(pair._slopes, "_differentiated", limited)
    check_close(slopes(pair, here, probes), wanted)
    assert "2 images of 32x32 do not fit to differentiate at once" in pair.notices[-1]
    assert not pair.merge.unet.is_gradient_checkpointing

    most[0] = 0
    check_close(slopes(pair, here, probes), wanted)
    assert "blocks of UNet and VAE" in pair.notices[-1]

    most[0] = -1
    with pytest.raises(NoSlopes, match="do not fit the memory") as raised:
        slopes(pair, here, probes)
    assert isinstance(raised.value.__cause__, DoesNotFit)
    assert len(all_of(pair.evaluate(here, probes))) == 2


def test_half_precision_lowers_its_scale_until_no_gradient_overflows(
    pair: PairEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes, here = [probe(0)], uniform(pair.blocks, 0.4)
    wanted = slopes(pair, here, probes)
    real, overflows = BlockGradients.slopes, [math.inf, math.nan]

    def overflowing(self: BlockGradients) -> BlockWeights:
        return dict.fromkeys(pair.blocks, overflows.pop()) if overflows else real(self)

    monkeypatch.setattr(BlockGradients, "slopes", overflowing)
    pair._slopes._loss_scale = 2.0**16
    check_close(slopes(pair, here, probes), wanted)
    assert pair._slopes._loss_scale == 2.0**8

    monkeypatch.setattr(BlockGradients, "slopes", lambda _: dict.fromkeys(pair.blocks, math.nan))
    with pytest.raises(NoSlopes, match="overflows; run in bfloat16 or float32"):
        slopes(pair, here, probes)
