"""The picture: the best so far against renders, one panel per family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.searching.runner import FAMILIES
from benchmarks.searching.runs import Run
from benchmarks.searching.table import observed_at, of_family, truth_at


def plot(runs: Sequence[Run], file: Path) -> None:
    """Write the means with a band of one standard error. On the zoo it is the score that the search saw, less
    the uniform merge's."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    families = [family for family in FAMILIES if of_family(family, runs)]
    figure, axes = pyplot.subplots(
        1, max(1, len(families)), figsize=(6.5 * max(1, len(families)), 4.5), squeeze=False
    )
    for panel, family in zip(axes[0], families, strict=True):
        found = of_family(family, runs)
        for arm, by_objective in found.items():
            most = max(run.budget for run in by_objective.values())
            renders = range(3 if family == "zoo" else 1, most + 1)
            curves = np.array([_curve(run, family, renders) for run in by_objective.values()])
            mean, error = np.nanmean(curves, 0), np.nanstd(curves, 0) / np.sqrt(len(curves))
            (line,) = panel.plot(renders, mean, label=f"{arm} ({len(curves)})")
            panel.fill_between(renders, mean - error, mean + error, alpha=0.15, color=line.get_color())
        panel.set_title(family)
        panel.set_xlabel("renders, in trials (a slope at its price)")
        panel.set_ylabel("score over uniform" if family == "zoo" else "best so far, prior sd")
        panel.legend(fontsize=7, loc="lower right", ncols=2)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=110)
    pyplot.close(figure)


def _curve(run: Run, family: str, renders: Sequence[int]) -> list[float]:
    if family == "zoo":
        uniform = run.observed[2]  # every arm of the zoo tries A, B and the uniform merge first
        return [observed_at(run, count) - uniform for count in renders]
    return [truth_at(run, count) for count in renders]
