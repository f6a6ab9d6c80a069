"""Trials of a node that are looked at beside each other: parents, uniform merge, best, any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scoring.probes import Probe
from service.dashboard.node_topics import NodeView
from service.db.records import RenderRecord, TrialRecord
from service.db.states import TrialKind
from service.db.store import Store

_HELDOUT = {
    TrialKind.HELDOUT_A: "a",
    TrialKind.HELDOUT_B: "b",
    TrialKind.HELDOUT_UNIFORM: "uniform",
    TrialKind.HELDOUT_WINNER: "best",
}
_SEARCH = ("a", "b", "uniform")
OFFERED = 100
"""So many of the best trials are offered: every browser gets the list anew with every trial. Any other is
found in the table of trials."""


@dataclass(frozen=True)
class Contender:
    """A trial with its images. key: a, b, uniform, best, or its number; label: what people call it."""

    key: str
    label: str
    trial: TrialRecord
    renders: Mapping[int, RenderRecord]


def probes_of(view: NodeView, *, heldout: bool) -> Sequence[Probe]:
    """The probes of a phase."""
    return view.plan.heldout if heldout else view.plan.probes


def choices(view: NodeView, *, heldout: bool, also: Sequence[str] = ()) -> dict[str, str]:
    """Key -> label of what is offered to be looked at now, the best trials first after the baselines.

    also: keys of trials that are chosen already, however good they are.
    """
    names = _names(view)
    if heldout:
        present = {_HELDOUT[t.kind] for t in _heldout(view)}
        return {key: label for key, label in names.items() if key in present}
    there = {trial.number for trial in view.searched[: len(_SEARCH)]}
    found = {key: names[key] for place, key in enumerate(_SEARCH) if place in there and view.progress.b}
    if view.best:
        found["best"] = names["best"]
    # Nearly always none: then thousands of trials need not be looked through for each browser.
    numbers = {int(key) for key in also if key.isdecimal()}
    chosen = [t for t in view.ranked[OFFERED:] if t.number in numbers] if numbers else []
    others = {
        str(t.number): f"trial {t.number}"
        for t in (*view.ranked[1:OFFERED], *chosen)
        if view.progress.b is None or t.number > 2
    }
    return {**found, **others}


def trial_of(view: NodeView, key: str, *, heldout: bool) -> TrialRecord | None:
    """The trial of a key; None where there is none (any more)."""
    if heldout:
        return next((trial for trial in _heldout(view) if _HELDOUT[trial.kind] == key), None)
    if key == "best":
        return view.best
    number = _SEARCH.index(key) if key in _SEARCH else int(key)
    return next((trial for trial in view.searched if trial.number == number), None)


def load(store: Store, view: NodeView, keys: Sequence[str], *, heldout: bool) -> list[Contender]:
    """These trials with their images, as far as they are there."""
    labels = choices(view, heldout=heldout, also=keys)
    found = [(key, trial_of(view, key, heldout=heldout)) for key in keys]
    return [
        Contender(
            key, labels.get(key, key), trial, {render.probe: render for render in store.renders(trial.id)}
        )
        for key, trial in found
        if trial is not None
    ]


def _names(view: NodeView) -> dict[str, str]:
    best = f"best: trial {view.best.number}" if view.best else "best"
    return {"a": f"A: {view.progress.a}", "b": f"B: {view.progress.b}", "uniform": "uniform", "best": best}


def _heldout(view: NodeView) -> list[TrialRecord]:
    """The held-out trials; of the winners, that of the best by now."""
    return [
        trial
        for trial in view.trials
        if trial.kind in _HELDOUT
        and (trial.kind is not TrialKind.HELDOUT_WINNER or (view.best and trial.number == view.best.number))
    ]
