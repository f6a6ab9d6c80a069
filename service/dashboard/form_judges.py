"""The form's part on scorers: who judges and counts, who only watches, and how scores become one number."""

from __future__ import annotations

from collections.abc import Sequence

from nicegui import ui

from scoring.reward import TALLIES
from service.dashboard.form_fields import Fields
from service.dashboard.job_form import JobForm, ScorerChoice
from service.dashboard.layout import empty
from service.dashboard.scorer_choices import Offer
from service.planning import GUARDS_BY_DEFAULT

FIRST_SCORER = "pickscore"
TALLY_WORDS = {
    "arithmetic": "arithmetic mean (usual)",
    "min": "min: the worst image counts",
    "max": "max: the best image counts",
}


def tally_words() -> dict[str, str]:
    """Every tally with what it is called here."""
    return {name: TALLY_WORDS.get(name, name) for name in TALLIES}


class JudgesPart:
    """Tick boxes for those who are ready, what the others need, and who watches."""

    def __init__(self, fields: Fields, form: JobForm, offers: Sequence[Offer]) -> None:
        self._fields, self._form = fields, form
        ready = [offer for offer in offers if offer.ready and not offer.guard]
        installed = [offer for offer in ready if not offer.voted]
        if not installed:
            empty(
                "No scorer is installed",
                f"A good first one is {FIRST_SCORER}: it reads the prompt. Get its weights as below, then "
                "load this page again. Or judge yourself: tick human.",
                "gavel",
            )
            for offer in offers:
                if offer.name == FIRST_SCORER:
                    _missing(offer)
        for number, offer in enumerate(ready):
            self._scorer(offer, chosen=number == 0 and not offer.voted)
        self._vote_fields()
        missing = [offer for offer in offers if not offer.ready]
        if missing:
            with fields.fold(f"{len(missing)} more that need their weights", "download"):
                for offer in missing:
                    _missing(offer)
        with fields.fold("Who watches beside them, and how scores are counted", "tune", "watch"):
            self._watch([offer for offer in offers if offer.ready and not offer.voted])
            with ui.element("div").classes("fields"):
                fields.choice("The score of a trial over its images", form, "tally", tally_words(), "tally")
            fields.switch("Bring several scorers to one scale", form, "normalise")

    def changed(self) -> None:
        """Show what follows from the fields."""
        self._votes.set_visibility(self._form.is_voted())

    def _scorer(self, offer: Offer, *, chosen: bool) -> None:
        choice = ScorerChoice(offer.name, model=offer.models[0] or None)

        def tick(on: bool) -> None:
            kept = [each for each in self._form.scorers if each is not choice]
            self._form.scorers = [*kept, choice] if on else kept
            self._fields.changed()

        def set_model(name: str | None) -> None:
            choice.model = name or None
            self._fields.changed()

        def set_weight(weight: float | None) -> None:
            choice.weight = weight or 1.0
            self._fields.changed()

        with ui.element("div").classes("scorer-row"):
            box = ui.checkbox(value=False, on_change=lambda event: tick(bool(event.value)))
            box.props["aria-label"] = offer.name
            with ui.element("div").classes("grow"):
                ui.label(offer.name).classes("strong")
                ui.label(offer.what).classes("soft small wrap")
            if offer.models != [""]:
                names = {model: model or f"{offer.name} (its own)" for model in offer.models}
                model = ui.select(names, value=offer.models[0], label="Weights").props("dense outlined")
                model.on_value_change(lambda event: set_model(event.value))
            weight = ui.number("Weight", value=1, min=0.01, step=0.5).props("dense outlined").classes("short")
            weight.on_value_change(lambda event: set_weight(event.value))
        box.set_value(chosen)

    def _vote_fields(self) -> None:
        self._votes = ui.element("div")
        with self._votes:
            ui.label(
                "You compare two images at a time, at Vote: the search waits after every round of trials."
            ).classes("soft small")
            with ui.element("div").classes("fields small-fields"):
                self._fields.number("Trials in a round", self._form, "vote_trials", "votes.trials")
                self._fields.number("Votes for a round", self._form, "votes", "votes.votes")
                self._fields.number("Votes on held-out probes", self._form, "heldout_votes", "votes.heldout")

    def _watch(self, ready: Sequence[Offer]) -> None:
        ui.label(
            "They judge every image and never count. They warn where a score rises while images get worse."
        ).classes("soft small")
        watching = {offer.name: offer.name in GUARDS_BY_DEFAULT for offer in ready}
        models = {offer.name: offer.models[0] or None for offer in ready}

        def tick(name: str, on: bool) -> None:
            watching[name] = on
            chosen = [known for known, ticked in watching.items() if ticked]
            usual = sorted(chosen) == sorted(GUARDS_BY_DEFAULT)
            self._form.watch = None if usual else [ScorerChoice(each, model=models[each]) for each in chosen]
            self._fields.changed()

        for offer in sorted(ready, key=lambda offer: (not offer.guard, offer.name)):
            with ui.element("label").classes("watch-row"):
                box = ui.checkbox(value=watching[offer.name])
                box.on_value_change(lambda event, name=offer.name: tick(name, bool(event.value)))
                box.props["aria-label"] = f"{offer.name} watches"
                ui.label(offer.name).classes("strong")
                ui.label(offer.what).classes("soft small wrap")


def _missing(offer: Offer) -> None:
    ui.label(offer.name).classes("strong")
    ui.label(offer.what).classes("soft small wrap")
    for command in offer.needs:
        ui.label(command).classes("mono command")
