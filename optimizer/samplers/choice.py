"""Which sampler a search takes, and why: `auto` climbs by slopes where there are any."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

SamplerName = Literal["auto", "gradient", "gp", "tpe", "cmaes", "random"]
BY_SLOPES: tuple[SamplerName, ...] = ("auto", "gradient")
"""Those that climb by the slopes they are told; told of none, they propose what gp does."""
_LINEAR_TALLY = "arithmetic"


@dataclass(frozen=True)
class Choice:
    """The sampler that a search takes. reason: in words; "" where it was asked for and can be had."""

    sampler: SamplerName
    reason: str


def resolve_sampler(
    asked: SamplerName,
    differentiable: Mapping[str, bool],
    tally: str,
    choosing: Collection[str] = (),
    *,
    drafts: bool = False,
) -> Choice:
    """The sampler of a search by these scorers and this tally.

    differentiable: scorer -> whether gradients pass through it, of those that count. `auto` and `gradient`
    become gradient where one of them is and the tally is arithmetic; else gp. choosing: what is searched
    beside numbers. drafts: whether trials are drafted first.
    """
    if asked not in BY_SLOPES:
        return Choice(asked, "")
    through = [name for name, has in differentiable.items() if has]
    why_not = _why_without_slopes(differentiable, tally, choosing, drafts=drafts)
    if why_not:
        return Choice("gp", f"sampler {asked}: gp, as {why_not}")
    if asked == "gradient" and len(through) == len(differentiable):
        return Choice("gradient", "")
    constant = [name for name in differentiable if name not in through]
    without = f"; {', '.join(constant)} counts by value alone" if constant else ""
    return Choice(
        "gradient",
        f"sampler {asked}: gradient, as slopes pass through {', '.join(through)}{without}; a trial with "
        "slopes takes about four times as long as one without",
    )


def _why_without_slopes(
    differentiable: Mapping[str, bool], tally: str, choosing: Collection[str], *, drafts: bool
) -> str | None:
    """Why a search has no slopes, in words; None where it has."""
    if drafts:
        return "a trial with slopes is rendered whole, and not drafted"
    if choosing:
        return f"the score has no slope along {', '.join(choosing)}"
    if tally != _LINEAR_TALLY:
        return f"slopes are those of the arithmetic tally and this one is {tally}"
    if not any(differentiable.values()):
        return f"no scorer has slopes: {', '.join(differentiable)}"
    return None
