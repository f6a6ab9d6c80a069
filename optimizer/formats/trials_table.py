"""The trials of a search as a table: CSV for spreadsheets, JSON for programs, auto-MBW-rt's own history."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from optimizer.blocks import BLOCKS, NAT_ORDER, SDXL_BLOCKS, BlockWeights
from optimizer.choices import Choices
from optimizer.elements import elements_in, in_order
from optimizer.formats.mbwrt_history import history_csv
from scoring.display import cell
from scoring.errors import InputError

_ALL_BLOCKS = tuple(dict.fromkeys((*BLOCKS, *SDXL_BLOCKS)))
_SD1_ALONE = frozenset(BLOCKS) - frozenset(SDXL_BLOCKS)


class TrialRow(BaseModel):
    """One trial that ended."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int = Field(description="Its place in the search, from 0; of a held-out trial, the winner's.")
    kind: str = Field(description="search, or heldout_a, heldout_b, heldout_uniform, heldout_winner.")
    state: str = Field(description="done, failed, or stopped early.")
    score: float | None = Field(description="The tally of its probes' scores; none unless it is done.")
    estimate: float | None = Field(default=None, description="What a stopped one would score.")
    standard_error: float | None = Field(default=None, description="Of the estimate.")
    seconds: float | None
    reason: str | None = Field(description="Why it failed or was stopped.")
    began: datetime | None = None
    ended: datetime | None = None
    weights: BlockWeights = Field(
        description="Block or element (as IN04/attn2) -> alpha; merged = (1 - alpha) A + alpha B."
    )
    choices: Choices = Field(default_factory=dict, description="Name of a choice -> the option it had.")
    slopes: BlockWeights | None = Field(
        default=None, description="Block name -> d score / d alpha; none where they were not computed."
    )


class TrialTable(BaseModel):
    """The trials of one node.

    blocks: those that are searched, in our order, each before its elements. options: of every choice, what a
    trial may have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    job: str
    node: str
    a: str | None
    b: str | None
    tally: str
    scorers: list[str]
    blocks: list[str]
    options: dict[str, list[str]] = Field(default_factory=dict)
    trials: list[TrialRow]


def blocks_in(trials: Sequence[TrialRow]) -> list[str]:
    """The blocks that the trials weigh, in our order, each before its elements."""
    return in_order((name for trial in trials for name in trial.weights), _ALL_BLOCKS)


def trials_csv(table: TrialTable) -> str:
    """Columns number, kind, state, score, estimate, standard_error, seconds and reason, then one a block.

    Where the search had choices, a column for each stands before the blocks. Where trials have slopes, a
    column `slope IN00` and so on for each block follows. Numbers are written so that they come back to the
    bit; what a trial has not is left empty. A text that a spreadsheet would take for a formula has a `'`
    before it.
    """
    out = io.StringIO()
    columns = ["number", "kind", "state", "score", "estimate", "standard_error", "seconds", "reason"]
    sloped = any(trial.slopes for trial in table.trials)
    slopes = {block: f"slope {block}" for block in table.blocks} if sloped else {}
    choices = list(dict.fromkeys(name for trial in table.trials for name in trial.choices))
    writer = csv.DictWriter(out, [*columns, *choices, *table.blocks, *slopes.values()], lineterminator="\n")
    writer.writeheader()
    for trial in table.trials:
        own = {slopes[block]: slope for block, slope in (trial.slopes or {}).items()}
        said = {name: cell(option) for name, option in trial.choices.items()}
        told = {name: cell(getattr(trial, name)) for name in columns}
        writer.writerow({**told, **said, **trial.weights, **own})
    return out.getvalue()


def trials_json(table: TrialTable) -> str:
    """The whole table as JSON."""
    return table.model_dump_json(indent=1) + "\n"


def mbwrt_history(table: TrialTable) -> str:
    """The search trials that are done, as auto-MBW-rt writes its history.

    Blocks in which A and B are the same are 0, as no weight moves them. Raises InputError for SDXL, whose
    blocks that format has no columns for, for what no block weight says, and where no trial is done.
    """
    beside = [*elements_in(table.blocks), *(name for trial in table.trials[:1] for name in trial.choices)]
    if beside:
        raise InputError(
            f"node {table.node}: its trials differ in {', '.join(beside)} too, and a history of auto-MBW-rt "
            "has columns for the weights of blocks alone; write csv or json"
        )
    if "LABEL_EMB" in table.blocks or _SD1_ALONE.isdisjoint(table.blocks):
        raise InputError(
            f"node {table.node}: a history of auto-MBW-rt has the 27 blocks of SD1 and SD2, and this search "
            f"is over {', '.join(table.blocks) or 'none'}; write csv or json"
        )
    done = [trial for trial in table.trials if trial.kind == "search" and trial.score is not None]
    if not done:
        raise InputError(f"node {table.node} has no trial that is done yet; wait for the first")
    rows = [
        ({block: trial.weights.get(block, 0.0) for block in NAT_ORDER}, trial.score or 0.0) for trial in done
    ]
    seconds = sum(trial.seconds or 0.0 for trial in done)
    return history_csv(rows, seconds, seconds)
