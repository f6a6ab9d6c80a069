"""Constraints: which block weights a search may try, and how a sampler's point becomes block weights."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from optimizer.blocks import BLOCKS, SDXL_BLOCKS, uniform
from optimizer.formats.presets import find_preset, weights_for
from optimizer.search import (
    SamplerName,
    SearchSettings,
    ToldTrial,
    best_trial,
    may_win,
    propose,
    stop_reason,
)
from optimizer.space import Space, SpaceSettings, blocks_named
from optimizer.warm_start import ImportedTrial
from scoring.errors import InputError

SAMPLERS: list[SamplerName] = ["gp", "tpe", "cmaes", "random"]
MANY: dict[str, Any] = {
    "freeze": {"TIME_EMBED": 0.0, "OUT": 0.25},
    "bounds": {"all": (0.2, 0.8), "M00": (0.0, 0.5)},
    "ties": ["IN00-IN05", ["OUT08", "OUT10"]],
}


def space_of(blocks: tuple[str, ...] = BLOCKS, **settings: Any) -> Space:
    return Space.of(SpaceSettings(**settings).resolved(blocks), blocks)


def searching(settings: dict[str, Any], **search: Any) -> SearchSettings:
    return SearchSettings(space=SpaceSettings(**settings).resolved(BLOCKS), **search)


def run(settings: SearchSettings, until: int) -> list[ToldTrial]:
    told: list[ToldTrial] = []
    while len(told) < until:
        weights = propose(settings, BLOCKS, len(told), told)
        told.append(ToldTrial(len(told), weights, -sum((alpha - 0.3) ** 2 for alpha in weights.values())))
    return told


def test_without_constraints_a_point_is_the_block_weights() -> None:
    space = space_of()
    weights = weights_for(find_preset("GRAD_V"), BLOCKS)
    assert space.names == list(BLOCKS)
    assert space.point(weights) == weights
    assert space.weights(weights) == weights


def test_ranges_are_written_as_supermerger_writes_them() -> None:
    assert blocks_named("IN10-OUT01", BLOCKS) == ["IN10", "IN11", "M00", "OUT00", "OUT01"]
    assert blocks_named("IN00, OUT03-OUT04 TIME_EMBED", BLOCKS) == ["IN00", "OUT03", "OUT04", "TIME_EMBED"]


def test_a_point_moves_tied_blocks_together_within_their_bounds_and_no_frozen_one() -> None:
    space = space_of(**MANY)
    assert len(space.names) == 27 - 2 - 5 - 1
    low, high = (space.weights(dict.fromkeys(space.names, place)) for place in (0.0, 1.0))
    assert low["TIME_EMBED"] == high["TIME_EMBED"] == 0
    assert (low["OUT"], high["OUT"]) == (0.25, 0.25)
    assert (low["M00"], high["M00"]) == (0.0, 0.5)
    assert (low["OUT11"], high["OUT11"]) == (0.2, 0.8)
    point = {name: index / 40 for index, name in enumerate(space.names)}
    weights = space.weights(point)
    assert len({weights[f"IN0{index}"] for index in range(6)}) == 1
    assert weights["OUT08"] == weights["OUT10"] != weights["OUT09"]
    assert list(weights) == list(BLOCKS)
    assert space.point(weights) == pytest.approx(point)
    assert space.contains(weights)


@pytest.mark.parametrize(("blocks", "last"), [(BLOCKS, 11), (SDXL_BLOCKS, 8)])
def test_symmetric_ties_the_way_down_to_the_way_up(blocks: tuple[str, ...], last: int) -> None:
    space = space_of(blocks, symmetric=True)
    weights = space.weights({name: index / 40 for index, name in enumerate(space.names)})
    assert all(weights[f"IN{i:02}"] == weights[f"OUT{last - i:02}"] for i in range(last + 1))
    assert len(set(weights.values())) == len(blocks) - last - 1


def test_a_tie_and_its_mirror_become_one_and_a_frozen_block_takes_its_tie_along() -> None:
    space = space_of(symmetric=True, ties=["IN00-IN02"], freeze={"IN05": 0.4})
    weights = space.weights(dict.fromkeys(space.names, 0.7))
    assert {"IN00", "IN01", "IN02", "OUT09", "OUT10", "OUT11"} == set(space.dimensions[0].blocks)
    assert (weights["IN05"], weights["OUT06"]) == (0.4, 0.4)


def test_a_block_that_moves_nothing_is_no_dimension() -> None:
    settings = SpaceSettings(ties=["IN00-IN02", "IN03-IN04"], freeze={"OUT": 1}).resolved(BLOCKS)
    space = Space.of(settings, ("IN01", "IN02", "M00", "OUT"))
    assert space.names == ["IN01", "M00"]
    assert space.weights({"IN01": 0.1, "M00": 0.9}) == {"IN01": 0.1, "IN02": 0.1, "M00": 0.9, "OUT": 1}


def test_slopes_follow_the_chain_rule() -> None:
    space = space_of(**MANY)
    by_block = {block: float(index) for index, block in enumerate(BLOCKS)}

    def score(weights: dict[str, float]) -> float:
        return sum(by_block[block] * alpha for block, alpha in weights.items())

    start = dict.fromkeys(space.names, 0.5)
    slopes = space.slopes(by_block)
    for name in space.names:
        moved = score(space.weights(start | {name: 0.6})) - score(space.weights(start))
        assert moved / 0.1 == pytest.approx(slopes[name])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"freeze": {"IN12": 0.5}}, "unknown block 'IN12'"),
        ({"freeze": {"IN00": 1.5}}, "less than or equal to 1"),
        ({"ties": ["IN05-IN00"]}, "'IN05-IN00' is no range"),
        ({"ties": ["IN00-IN03", ["IN03", "M00"]]}, "IN03 is tied twice"),
        ({"ties": ["IN03"]}, "a tie is of two or more"),
        ({"bounds": {"IN00": (0.6, 0.4)}}, "leaves nothing to search; swap them"),
        ({"bounds": {"IN00": (0.5, 0.5)}}, "freeze: {IN00: 0.5}"),
        ({"bounds": {"IN00": (0, 0.5), "IN00-IN03": (0, 1)}}, "IN00 is named twice"),
        ({"bounds": {"IN00": (0, 0.4), "IN01": (0.6, 1)}, "ties": ["IN00-IN01"]}, "nothing in common"),
        ({"freeze": {"IN00": 0}, "bounds": {"IN00": (0, 0.5)}}, "IN00 is frozen and has bounds"),
        ({"freeze": {"IN00": 0, "IN01": 1}, "ties": ["IN00-IN03"]}, "IN00 at 0, IN01 at 1 are tied"),
        ({"freeze": {"IN00-OUT": 0}}, "every block is frozen"),
        ({"frozen": {}}, "Extra inputs"),
    ],
)
def test_contradictions_are_refused_when_they_are_written(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        SearchSettings.model_validate({"space": settings})
    assert said in str(refused.value)


def test_constraints_of_another_architecture_are_refused_for_it() -> None:
    with pytest.raises(InputError, match="unknown block 'IN09'"):
        SpaceSettings(ties=["IN09-IN11"]).resolved(SDXL_BLOCKS)
    assert SpaceSettings(freeze={"LABEL_EMB": 0.5}).resolved(SDXL_BLOCKS).freeze == {"LABEL_EMB": 0.5}


def test_what_moves_must_not_be_frozen_whole() -> None:
    with pytest.raises(InputError, match=r"\(IN00, IN01\) are all frozen"):
        Space.of(SpaceSettings(freeze={"IN00-IN05": 0.5}).resolved(BLOCKS), ("IN00", "IN01"))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_stays_in_the_space_and_is_still_told_the_same_when_resumed(
    sampler: SamplerName,
) -> None:
    settings = searching(MANY, sampler=sampler, seed=5)
    space = Space.of(settings.space, BLOCKS)
    told = run(settings, 14)
    assert [space.contains(trial.weights) for trial in told] == [False] * 3 + [True] * 11
    assert told[3].weights == space.nearest(uniform(BLOCKS, 0.5))
    assert propose(settings, BLOCKS, 13, told[:13][::-1]) == told[13].weights


def test_resolved_settings_go_through_json() -> None:
    settings = searching({**MANY, "symmetric": True, "ties": []})
    assert SearchSettings.model_validate_json(settings.model_dump_json()) == settings


def test_a_baseline_outside_is_measured_and_does_not_win() -> None:
    settings = searching({"freeze": {"OUT": 0.25}}, sampler="random", patience=3)
    told = run(settings, 7)
    assert [may_win(settings, trial.weights, {}) for trial in told[:4]] == [False, False, False, True]
    # A is better than all that follows, and yet the search goes on for as long as it gets better itself.
    better = [ToldTrial(t.number, t.weights, 9.0 if t.number == 0 else float(t.number)) for t in told]
    assert best_trial(better) == better[0]
    assert stop_reason(settings, better, 0.0) is None


def test_start_points_and_histories_are_moved_into_the_space() -> None:
    history = [ImportedTrial(weights=uniform(BLOCKS, n / 30), score=n / 30) for n in range(30)]
    settings = searching(MANY, start=["GRAD_V", "history"], imported=history, seed=1)
    space = Space.of(settings.space, BLOCKS)
    told = run(settings, 8)
    assert told[3].weights == space.nearest(weights_for(find_preset("GRAD_V"), BLOCKS))
    assert told[4].weights == space.nearest(uniform(BLOCKS, 29 / 30))
    assert all(space.contains(trial.weights) for trial in told[3:])
