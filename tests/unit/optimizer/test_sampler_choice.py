"""Which sampler `auto` is, and what it says of it."""

from __future__ import annotations

import pytest

from optimizer.samplers.choice import Choice, SamplerName, resolve_sampler


def test_auto_climbs_by_slopes_where_a_scorer_has_them() -> None:
    choice = resolve_sampler("auto", {"clip": True, "human": False}, "arithmetic")
    assert choice.sampler == "gradient"
    assert "slopes pass through clip; human counts by value alone" in choice.reason


@pytest.mark.parametrize("asked", ["auto", "gradient"])
@pytest.mark.parametrize(
    ("differentiable", "tally", "reason"),
    [
        ({"human": False}, "arithmetic", "no scorer has slopes: human"),
        ({"clip": True}, "median", "this one is median"),
    ],
)
def test_without_slopes_it_is_gp_and_says_why(
    asked: SamplerName, differentiable: dict[str, bool], tally: str, reason: str
) -> None:
    choice = resolve_sampler(asked, differentiable, tally)
    assert choice.sampler == "gp"
    assert reason in choice.reason


def test_drafted_trials_have_no_slopes() -> None:
    choice = resolve_sampler("auto", {"clip": True}, "arithmetic", drafts=True)
    assert choice.sampler == "gp"
    assert "not drafted" in choice.reason


@pytest.mark.parametrize("asked", ["gp", "tpe", "cmaes", "random"])
def test_a_sampler_that_needs_no_slopes_is_taken_as_asked(asked: SamplerName) -> None:
    assert resolve_sampler(asked, {"clip": True}, "arithmetic") == Choice(asked, "")
