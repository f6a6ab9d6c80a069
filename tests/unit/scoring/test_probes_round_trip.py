"""A probe survives its infotext: every field, and every prompt that can be typed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from scoring.probes import MAX_SEED, DynamicThresholding, FreeU, FreeUStage, Hires, Probe
from scoring.probes.infotext import to_infotext
from scoring.probes.infotext_reader import read_infotext
from scoring.probes.probe import ScaleMode, Schedule
from scoring.rendering.sampling import SAMPLERS
from scoring.rendering.upscalers import UPSCALERS

T = TypeVar("T")
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SHARES = st.floats(0, 1)
POSITIVE = st.floats(0, allow_nan=False, allow_infinity=False)
SEEDS = st.integers(0, MAX_SEED)
# Letters, all that the form of an infotext gives a meaning to, and what is a blank to Python alone.
TEXT = st.text(
    alphabet=st.one_of(
        st.sampled_from(list('ab ,:"\\\n\t\r=()[]<>{}_-\x00\x1c\x85\u2028é漢')), st.characters(codec="utf-8")
    )
)
LIKE_INFOTEXT = st.sampled_from(
    [
        "Negative prompt: x",
        "\nNegative prompt:\n",
        "parameters",
        "parameters\na",
        "Steps: 1, Sampler: b, Seed: 2",
        '"',
        '"a"',
    ]
)
PROMPTS = st.one_of(TEXT, LIKE_INFOTEXT, st.builds("{}\n{}".format, TEXT, LIKE_INFOTEXT))
SAMPLER = st.sampled_from(sorted(SAMPLERS))
SCHEDULES = st.none() | st.sampled_from(get_args(Schedule))
MODES = st.sampled_from(get_args(ScaleMode))
SIDES = st.integers(1, 2048).map(lambda n: 8 * n)

STAGES = st.builds(
    FreeUStage,
    backbone_factor=FINITE,
    skip_factor=FINITE,
    backbone_offset=SHARES,
    backbone_width=SHARES,
    skip_cutoff=SHARES,
    skip_high_end_factor=FINITE,
)
FREEU = st.builds(
    FreeU,
    stages=st.lists(st.just(FreeUStage()) | STAGES, max_size=3),
    version=st.sampled_from([1, 2]),
    start=SHARES,
    stop=SHARES,
    transition=SHARES,
)
THRESHOLDING = st.builds(
    DynamicThresholding,
    mimic_scale=FINITE,
    threshold_percentile=st.floats(0, 100),
    mimic_mode=MODES,
    mimic_scale_min=FINITE,
    cfg_mode=MODES,
    cfg_scale_min=FINITE,
    sched_value=FINITE,
    separate_feature_channels=st.booleans(),
    scaling_startpoint=st.sampled_from(["MEAN", "ZERO"]),
    variability=st.sampled_from(["AD", "STD"]),
    interpolate_phi=SHARES,
)


def fitting(kind: Callable[..., T]) -> Callable[..., T]:
    """Builds a `kind` where the names of its samplers do not contradict their schedules."""

    @functools.wraps(kind)
    def build(**fields: Any) -> T:
        try:
            return kind(**fields)
        except ValidationError as error:
            if "contradicts schedule" not in str(error):
                raise
            reject()

    return build


HIRES = st.builds(
    fitting(Hires),
    upscaler=st.sampled_from(sorted(UPSCALERS)),
    scale=st.floats(1, 8),
    resize_x=st.just(0) | SIDES,
    resize_y=st.just(0) | SIDES,
    steps=st.integers(0, 1000),
    denoising_strength=SHARES,
    sampler=st.none() | SAMPLER,
    schedule=SCHEDULES,
    cfg_scale=st.none() | POSITIVE,
    prompt=st.none() | PROMPTS,
    negative_prompt=st.none() | PROMPTS,
)


PROBES = st.builds(
    fitting(Probe),
    prompt=PROMPTS,
    negative_prompt=PROMPTS,
    seed=SEEDS,
    sampler=SAMPLER,
    schedule=SCHEDULES,
    steps=st.integers(1, 1000),
    cfg_scale=POSITIVE,
    width=SIDES,
    height=SIDES,
    clip_skip=st.integers(1, 24),
    rng=st.sampled_from(["CPU", "NV"]),
    eta=st.none() | SHARES,
    ensd=st.integers(),
    variation_seed=SEEDS,
    variation_strength=SHARES,
    cfg_rescale=SHARES,
    thresholding=st.none() | THRESHOLDING,
    freeu=st.none() | FREEU,
    hires=st.none() | HIRES,
)


@given(PROBES)
@example(Probe(prompt="", seed=0))
@example(Probe(prompt="a", seed=0, hires=Hires(prompt="", negative_prompt='"')))
@example(Probe(prompt="a", seed=0, freeu=FreeU(stages=(FreeUStage(), FreeUStage()))))
@example(Probe(prompt="a", seed=0, hires=Hires(scale=3.0, resize_x=64)))
@settings(max_examples=300, deadline=None)
def test_the_infotext_of_a_probe_gives_the_probe_back(probe: Probe) -> None:
    reading = read_infotext(to_infotext(probe))
    assert reading.probes == (probe,)
    assert not reading.notes
    assert not reading.provenance


def test_the_strategies_above_know_every_field() -> None:
    built: list[tuple[type[Any], Any]] = [
        (Probe, PROBES),
        (Hires, HIRES),
        (FreeU, FREEU),
        (FreeUStage, STAGES),
        (DynamicThresholding, THRESHOLDING),
    ]
    for model, strategy in built:
        drawn = strategy.wrapped_strategy if hasattr(strategy, "wrapped_strategy") else strategy
        assert set(drawn.kwargs) == set(model.model_fields), model.__name__


@pytest.mark.parametrize("name", list(Probe.model_fields))
def test_each_field_is_written(name: str) -> None:
    plain = Probe(prompt="a cat", seed=1)
    other: dict[str, Any] = {
        "prompt": "a dog",
        "negative_prompt": "x",
        "seed": 2,
        "sampler": "Euler",
        "schedule": "Karras",
        "steps": 3,
        "cfg_scale": 4.5,
        "width": 64,
        "height": 72,
        "clip_skip": 2,
        "rng": "NV",
        "eta": 0.5,
        "ensd": 31337,
        "variation_seed": 4,
        "variation_strength": 0.25,
        "cfg_rescale": 0.7,
        "thresholding": DynamicThresholding(),
        "freeu": FreeU(),
        "hires": Hires(),
    }
    assert to_infotext(plain.model_copy(update={name: other[name]})) != to_infotext(plain)
