"""Which scorers can judge here, and what those that cannot would need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scoring.errors import InputError
from scoring.scorers.base import ScorerSpec
from scoring.scorers.cards import card_of, is_guard, is_voted
from scoring.scorers.registry import scorer_names
from scoring.scorers.weights import commands, find_weights, where


@dataclass(frozen=True)
class Offer:
    """A scorer as the form shows it.

    models: names in the scorers folder that hold weights for it, "" for its own place. ready: whether it can
    judge now. needs: what puts its weights there, as commands. guard: only watches. voted: people judge.
    """

    name: str
    what: str
    models: list[str]
    ready: bool
    needs: list[str]
    guard: bool
    voted: bool = False


def offers(folder: Path) -> list[Offer]:
    """All installed scorers, those that are ready first."""
    found = [_offer(name, folder) for name in scorer_names()]
    return sorted(found, key=lambda offer: (not offer.ready, offer.guard, offer.voted, offer.name))


def _offer(name: str, folder: Path) -> Offer:
    card = card_of(name)
    what = "no card: its package says nothing of it" if card is None else card.what
    if card is None or not card.needs_weights:
        return Offer(name, what, [""], True, [], is_guard(name), is_voted(name))
    own = [""] if where(name, folder) else []
    others = [
        entry.name for entry in _entries(folder) if entry.name != name and _holds(name, entry.name, folder)
    ]
    models = [*own, *others]
    return Offer(name, what, models, bool(models), commands(card, folder), card.guard)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _holds(name: str, model: str, folder: Path) -> bool:
    try:
        find_weights(ScorerSpec(scorer=name, model=model), folder)
    except InputError:
        return False
    return True
