"""Choices: what a search takes beside block weights is searched with them, and resumed the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from optimizer.blocks import BLOCKS, uniform
from optimizer.checkpoints import load_components
from optimizer.choices import ChoiceSettings
from optimizer.samplers.choice import resolve_sampler
from optimizer.search import (
    Candidate,
    SamplerName,
    SearchSettings,
    ToldTrial,
    best_trial,
    may_win,
    next_trial,
)
from optimizer.text_encoders import TextEncoders, load_text_encoder
from optimizer.warm_start import ImportedTrial
from scoring.errors import InputError

FEW = BLOCKS[:3]
AMONG = {"text_encoder": ["a", "b", "muse"]}


def searching(sampler: SamplerName, **settings: Any) -> SearchSettings:
    return SearchSettings.model_validate({"sampler": sampler, "choices": AMONG, **settings})


def searched(settings: SearchSettings, trials: int) -> list[ToldTrial]:
    """A search where `muse` is worth more than any weights are."""
    told: list[ToldTrial] = []
    for number in range(trials):
        found = next_trial(settings, FEW, number, told)
        score = float(found.choices["text_encoder"] == "muse") - sum(
            (alpha - 0.3) ** 2 for alpha in found.weights.values()
        )
        told.append(ToldTrial(number, found.weights, score, choices=found.choices))
    return told


def taken(told: list[ToldTrial]) -> list[str]:
    return [trial.choices["text_encoder"] for trial in told]


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=pytest.mark.slow), "random", "auto"])
def test_a_choice_is_searched_and_a_resumed_search_makes_the_same(sampler: SamplerName) -> None:
    settings = searching(sampler)
    told = searched(settings, 14)
    # The uniform merge lies outside: what is closest to it is told first.
    assert taken(told)[:4] == ["a", "b", "uniform", "a"]
    assert told[3].weights == uniform(FEW, 0.5)
    assert set(taken(told)[4:]) <= {"a", "b", "muse"}
    best = best_trial(told)
    assert best is not None
    assert best.choices == {"text_encoder": "muse"}
    for number in (9, 13):
        resumed = next_trial(settings, FEW, number, told[:number][::-1])
        assert resumed == Candidate(told[number].weights, told[number].choices)


def test_tpe_learns_which_option_is_better() -> None:
    assert taken(searched(searching("tpe"), 30))[20:].count("muse") > 7


def test_what_has_no_option_of_the_search_is_only_to_be_beaten() -> None:
    settings = searching("tpe")
    weights = uniform(FEW, 0.5)
    assert [may_win(settings, weights, {"text_encoder": own}) for own in ("a", "b", "uniform")] == [
        True,
        True,
        False,
    ]
    assert may_win(SearchSettings(), weights, {})


def test_weights_that_say_nothing_of_choices_are_tried_with_those_of_a() -> None:
    imported = [ImportedTrial(weights=uniform(BLOCKS, 0.2), score=9.0)]
    first = next_trial(searching("tpe", start=["GRAD_V"]), BLOCKS, 3, [])
    assert first.choices == {"text_encoder": "a"}
    others = {"choices": {"text_encoder": ["muse", "b"]}}
    search = searching("tpe", start=["history"], imported=imported, **others)
    assert next_trial(search, BLOCKS, 3, []).choices == {"text_encoder": "muse"}


@pytest.mark.parametrize("sampler", ["cmaes", "gradient"])
def test_a_sampler_of_numbers_alone_is_refused(sampler: SamplerName) -> None:
    with pytest.raises(ValidationError, match=f"{sampler} moves numbers alone .*take gp or tpe"):
        searching(sampler)


def test_auto_does_without_slopes() -> None:
    choice = resolve_sampler("auto", {"clip": True}, "arithmetic", ["text_encoder"])
    assert (choice.sampler, choice.reason) == (
        "gp",
        "sampler auto: gp, as the score has no slope along text_encoder",
    )


@pytest.mark.parametrize(
    ("options", "words"), [(["a"], "a alone is no choice"), ([], "nothing alone"), (["a", "a"], "twice")]
)
def test_what_is_no_choice_is_refused(options: list[str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ChoiceSettings(text_encoder=options)


def test_each_text_encoder_is_loaded_once_and_a_mean_is_that_of_the_numbers(
    tiny_models: Path, tmp_path: Path
) -> None:
    left = tiny_models / "left.safetensors"
    other = tmp_path / "other.safetensors"
    moved = {k: t * 2 if t.is_floating_point() else t for k, t in load_file(left).items()}
    save_file(moved, other)
    components = load_components(left, device="cpu", dtype=torch.float32)
    mean = load_text_encoder([left, other], "emoji", device="cpu", dtype=torch.float32)
    own = dict(components.text_encoder.named_parameters())
    for name, parameter in mean.named_parameters():
        assert torch.equal(parameter, own[name] * 1.5), name
    encoders = TextEncoders({"other": [other]}, components, "emoji", "cpu", None)
    assert encoders.conditioner("other") is encoders.conditioner("other")
    with pytest.raises(InputError, match="unknown text encoder 'b'; this search has other"):
        encoders.conditioner("b")
