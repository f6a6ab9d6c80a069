"""Scorers by name. A package adds its own through the entry points `autombw.scorers`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import torch

from scoring.errors import InputError
from scoring.scorers.base import Scorer, ScorerSpec

GROUP = "autombw.scorers"


def scorer_names() -> list[str]:
    """The names of all installed scorers, sorted."""
    return sorted(_installed())


def check_scorer(name: str) -> str:
    """`name` when it is the name of an installed scorer; raises InputError listing the known names."""
    if name not in _installed():
        raise InputError(f"unknown scorer {name!r}; known scorers: {', '.join(scorer_names()) or 'none'}")
    return name


def create_scorer(spec: ScorerSpec, device: torch.device | str) -> Scorer:
    """The scorer that `spec` names, on `device`, with its weights loaded.

    Raises InputError for an unknown scorer, one whose package can't be imported, and, from the scorer, for
    a `model` that is missing or not its own.
    """
    entry = _installed()[check_scorer(spec.scorer)]
    try:
        factory = entry.load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"scorer {spec.scorer!r} ({entry.value}) can't be loaded: {error}") from error
    scorer = factory(spec, torch.device(device))
    if not isinstance(scorer, Scorer):
        raise InputError(
            f"scorer {spec.scorer!r} ({entry.value}) made a {type(scorer).__name__}, not a scorer"
        )
    return scorer


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
