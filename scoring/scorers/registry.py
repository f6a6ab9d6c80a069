"""Scorers by name. A package adds its own through the entry points `autombw.scorers`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from scoring.errors import InputError
from scoring.scorers.base import Scorer, ScorerSpec, Squashed
from scoring.scorers.cards import card_of

if TYPE_CHECKING:
    import torch

GROUP = "autombw.scorers"


def scorer_names() -> list[str]:
    """The names of all installed scorers, sorted."""
    return sorted(_installed())


def check_scorer(name: str) -> str:
    """`name` when it is the name of an installed scorer; raises InputError listing the known names."""
    if name not in _installed():
        raise InputError(f"unknown scorer {name!r}; known scorers: {', '.join(scorer_names()) or 'none'}")
    return name


def check_options(spec: ScorerSpec) -> None:
    """Raise InputError for an option that the named scorer does not have.

    A scorer without a card is asked nothing: only it knows what it takes.
    """
    card = card_of(spec.scorer)
    if card is None:
        if spec.sigmoid:
            raise InputError(f"scorer {spec.scorer!r} has no card that names the middle of a `sigmoid`")
        return
    if spec.label is not None and not card.classifier:
        raise InputError(f"scorer {spec.scorer!r} is no classifier; leave out `label`")
    if card.classifier and spec.label is None and card.label is None:
        raise InputError(f"scorer {spec.scorer!r} needs `label`: whose probability is the score")
    if spec.sigmoid and card.sigmoid_middle is None:
        raise InputError(f"scorer {spec.scorer!r} has no sigmoid form; leave out `sigmoid`")


def create_scorer(spec: ScorerSpec, device: torch.device | str) -> Scorer:
    """The scorer that `spec` names, on `device`, with its weights loaded.

    Raises InputError for an unknown scorer, an option it does not have, one whose package can't be imported,
    and, from the scorer, for a `model` that is missing or not its own.
    """
    import torch

    entry = _installed()[check_scorer(spec.scorer)]
    check_options(spec)
    try:
        factory = entry.load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"scorer {spec.scorer!r} ({entry.value}) can't be loaded: {error}") from error
    scorer = factory(spec, torch.device(device))
    if not isinstance(scorer, Scorer):
        raise InputError(
            f"scorer {spec.scorer!r} ({entry.value}) made a {type(scorer).__name__}, not a scorer"
        )
    card = card_of(spec.scorer)
    if spec.sigmoid and card is not None and card.sigmoid_middle is not None:
        return Squashed(scorer, card.sigmoid_middle)
    return scorer


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
