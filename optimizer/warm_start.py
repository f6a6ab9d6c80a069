"""What a search is told before its first trial: points to begin with, and trials of an earlier search.

Both are part of the settings of a search, so that a proposal stays a pure function of settings, number and
trials told. Imported trials inform the sampler alone: they are no trials of the node, count for no budget,
and none of them can win unless it is rendered here as a start point.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field, field_validator

from optimizer.blocks import BLOCKS, SDXL_BLOCKS, BlockWeights, check_weights
from optimizer.elements import block_in
from optimizer.formats.presets import find_preset, weights_for
from scoring.errors import InputError

HISTORY = "history"
"""As a start point: the best of the imported trials."""

StartPoint = str | BlockWeights
_KNOWN = tuple(dict.fromkeys((*BLOCKS, *SDXL_BLOCKS)))


class ImportedTrial(BaseModel):
    """A trial that another search evaluated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: BlockWeights = Field(description="An alpha in [0, 1] for every block of the architecture.")
    score: float = Field(allow_inf_nan=False, description="Higher is better.")

    @field_validator("weights")
    @classmethod
    def _whole(cls, weights: BlockWeights) -> BlockWeights:
        return check_whole(weights)


def check_whole(weights: Mapping[str, float]) -> BlockWeights:
    """The weights, when they cover every block of an architecture. Raises InputError."""
    unknown = [name for name in weights if name not in _KNOWN]
    if unknown:
        raise InputError(f"unknown block {unknown[0]!r}; the blocks are {', '.join(_KNOWN)}")
    architecture = SDXL_BLOCKS if set(SDXL_BLOCKS) <= set(weights) and "IN09" not in weights else BLOCKS
    check_weights({name: alpha for name, alpha in weights.items() if name in architecture}, architecture)
    return check_weights(weights, list(weights))


def check_start(start: Sequence[StartPoint], imported: Sequence[ImportedTrial]) -> None:
    """Raise InputError for a start point that is no preset, no whole weights, or no history."""
    for point in start:
        if point == HISTORY:
            if not imported:
                raise InputError(f"start: {HISTORY!r} is the best imported trial, and none is imported")
        elif isinstance(point, str):
            find_preset(point)
        else:
            check_whole(point)


def check_fits(start: Sequence[StartPoint], imported: Sequence[ImportedTrial], blocks: Sequence[str]) -> None:
    """Raise InputError unless all start points and imported trials weigh these blocks, an architecture's."""
    for point in start:
        start_weights(point, blocks, imported)
    for trial in imported:
        weights_here(trial.weights, blocks)


def check_imported_once(imported: Sequence[ImportedTrial]) -> None:
    """Raise InputError when two imported trials have the same weights."""
    seen: dict[tuple[tuple[str, float], ...], int] = {}
    for number, trial in enumerate(imported):
        first = seen.setdefault(tuple(sorted(trial.weights.items())), number)
        if first != number:
            raise InputError(
                f"imported: trials {first} and {number} have the same weights; import each history once"
            )


def start_weights(
    point: StartPoint, blocks: Sequence[str], imported: Sequence[ImportedTrial]
) -> BlockWeights:
    """The weights of a start point for these blocks and elements; an element's are its block's.

    Raises InputError where it has none for one of them.
    """
    if point == HISTORY:
        best = max(imported, key=lambda trial: trial.score)
        return weights_here(best.weights, blocks)
    if isinstance(point, str):
        weights = weights_for(find_preset(point), list(dict.fromkeys(map(block_in, blocks))))
        return weights_here(weights, blocks)
    return weights_here(point, blocks)


def weights_here(weights: Mapping[str, float], blocks: Sequence[str]) -> BlockWeights:
    """The weights of these blocks; others move nothing, and elements move with their blocks.

    Raises InputError for a block that is missing.
    """
    missing = [block for block in dict.fromkeys(map(block_in, blocks)) if block not in weights]
    if missing:
        raise InputError(
            f"the start points or imported trials have no weight for {', '.join(missing)}: they are of "
            "another architecture than the models; leave them out"
        )
    return {name: float(weights[block_in(name)]) for name in blocks}


def rescaled(scores: Sequence[float], onto: Sequence[float]) -> list[float] | None:
    """Scores of another search, moved and stretched to the mean and deviation of this one's.

    Two searches with other scorers, prompts or sizes give numbers on other scales; what carries over is which
    trials were better, and by how much among themselves. scores: of the imported trials; onto: of the trials
    of this search so far. None while `onto` has no spread to measure by.
    """
    if len(onto) < 2 or (spread := statistics.pstdev(onto)) == 0:
        return None
    mean, theirs = statistics.fmean(scores), statistics.pstdev(scores)
    middle = statistics.fmean(onto)
    return [middle + ((score - mean) / theirs * spread if theirs else 0.0) for score in scores]
