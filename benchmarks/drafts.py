"""How far drafts tell the scores of whole trials, on the emoji zoo: real merges, renders and scores.

Per pair, `--weights` random block weights are rendered whole and as every kind of draft on the same probes;
the ranks of the two are compared (Spearman), and a draft's CPU time with the whole's.
`python -m benchmarks.drafts --folder DIR [--pairs 3] [--weights 24] [--json FILE]`
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.searching.zoo import zoo_objective
from optimizer.blocks import BLOCKS
from optimizer.drafts import DraftSettings, Pair, draft_of, rank_agreement

DRAFTS = (
    DraftSettings(steps=0.25),
    DraftSettings(steps=0.5),
    DraftSettings(steps=0.75),
    DraftSettings(steps=1, size=0.75),
    DraftSettings(steps=1, size=0.5),
)


def measured(folder: Path, number: int, weights: int) -> list[dict[str, Any]]:
    """One pair: for every kind of draft, the agreement of ranks and the share of the time."""
    objective = zoo_objective(folder, number)
    draw = Random(number)
    tried = [{block: draw.random() for block in BLOCKS} for _ in range(weights)]
    whole = [objective.rated(each, objective.searched) for each in tried]
    found = []
    for settings in DRAFTS:
        probes = [draft_of(probe, settings) for probe in objective.searched]
        drafts = [objective.rated(each, probes) for each in tried]
        pairs = [
            Pair(n, fmean(draft.scores), fmean(full.scores))
            for n, (draft, full) in enumerate(zip(drafts, whole, strict=True))
        ]
        found.append(
            {
                "pair": "+".join(objective.pair),
                "steps": settings.steps,
                "size": settings.size,
                "agreement": rank_agreement(pairs),
                "time": median(d.seconds for d in drafts) / median(w.seconds for w in whole),
            }
        )
    return found


def table(rows: list[dict[str, Any]]) -> Table:
    """A row per kind of draft: the median over pairs, the lowest and the highest."""
    shown = Table("steps", "size", "rank agreement", "lowest", "highest", "share of the time")
    for settings in DRAFTS:
        own = [row for row in rows if (row["steps"], row["size"]) == (settings.steps, settings.size)]
        ranks = [row["agreement"] for row in own]
        numbers = (median(ranks), min(ranks), max(ranks), median(row["time"] for row in own))
        shown.add_row(f"{settings.steps:g}", f"{settings.size:g}", *(f"{number:.2f}" for number in numbers))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, required=True, help="for the zoo's files and what was rendered"
    )
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--weights", type=int, default=24)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = [row for number in range(given.pairs) for row in measured(given.folder, number, given.weights)]
    Console().print(table(rows))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
