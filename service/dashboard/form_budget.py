"""The form's part on the search: how long, by which sampler, within which bounds, and which merges differ."""

from __future__ import annotations

from nicegui import ui

from optimizer.formats.presets import WELL_KNOWN
from scoring.errors import InputError
from service.dashboard.form_fields import Fields
from service.dashboard.form_judges import tally_words
from service.dashboard.job_form import JobForm, Override

SEARCHES = {
    "auto": "auto: by slopes where a scorer has them, else Gaussian process",
    "gp": "Gaussian process: best of those without slopes, up to some hundred trials",
    "gradient": "gradient: climbs by slopes; a trial takes about four times as long",
    "tpe": "TPE: for thousands of trials",
    "cmaes": "CMA-ES: around the uniform merge",
    "random": "random: to compare with",
}


class BudgetPart:
    """The budget in sight; sampler, constraints and single merges folded."""

    def __init__(self, fields: Fields, form: JobForm) -> None:
        self._fields, self._form = fields, form
        self._shown: list[str] | None = None
        self._merges: list[str] = []
        with ui.element("div").classes("fields small-fields"):
            fields.number("Trials per merge", form, "trials", "search.trials")
            self._final = fields.number(
                "Trials of the last merge", form, "final_trials", placeholder="the same"
            )
            fields.number("Minutes per merge", form, "minutes", "search.seconds", placeholder="no limit")
            fields.number(
                "Stop without gain for",
                form,
                "patience",
                "search.patience",
                placeholder="never",
                suffix="trials",
            )
            fields.number(
                "Stop below a gain of",
                form,
                "until_gain_per_hour",
                "search.until_gain_per_hour",
                placeholder="never",
                suffix="score / hour",
            )
        with fields.fold("How it is searched", "tune"):
            self._sampler()
        with fields.fold(
            "Which block weights are tried: frozen, bounded, tied; text encoders", "lock", "search.space"
        ):
            self._space()
        with fields.fold("Merges that differ from the others", "call_split", "nodes") as self._fold:
            self._nodes = ui.element("div").classes("wide")
        self._fold.on_value_change(self._show_overrides)

    def changed(self) -> None:
        """Show anew what follows from the fields."""
        try:
            self._merges = [o for o, _, _ in self._form.table()] if len(self._form.leaves) > 1 else []
        except InputError:
            self._merges = []
        self._final.set_visibility(len(self._merges) > 1)
        self._show_overrides()

    def _sampler(self) -> None:
        form, fields = self._form, self._fields
        with ui.element("div").classes("fields"):
            fields.choice("Sampler of the search", form, "search", SEARCHES, "search.sampler")
            fields.number("Seed of the search", form, "seed", "search.seed")
            fields.several("Tried first", form, "start", list(WELL_KNOWN), "search.start")
        fields.switch("Racing: stop a trial early once it falls behind the best one", form, "racing")
        fields.switch("Score the uniform merge of all models too, to compare with", form, "average")

    def _space(self) -> None:
        space, fields, at = self._form.space, self._fields, "search.space"
        ui.label(
            "A weight of 0 is A alone, 1 is B alone. The blocks are IN00 to IN11, M00, OUT00 to OUT11, "
            "TIME_EMBED and OUT; IN04-M00 means all from one to the other."
        ).classes("soft small")
        with ui.element("div").classes("fields small-fields"):
            fields.number("Lowest weight", space, "low", placeholder="0")
            fields.number("Highest weight", space, "high", placeholder="1")
        fields.area("Frozen blocks", space, "freeze", f"{at}.freeze", "TIME_EMBED: 0, OUT: 0.25")
        fields.area("Bounds of single blocks", space, "bounds", f"{at}.bounds", "M00: [0, 0.5]")
        fields.area("Blocks that share one weight, a group a line", space, "ties", f"{at}.ties", "IN00-IN05")
        fields.switch("Mirror the U: IN00 with OUT11, IN01 with OUT10, and so on", space, "symmetric")
        fields.area(
            "Tensors with a weight of their own, BLOCKS:ELEMENTS:RATIO a line; without RATIO searched",
            space,
            "elements",
            f"{at}.elements",
            "IN00-IN05:attn2",
        )
        fields.area(
            "Text encoders to choose among, one a line: a, b, uniform, or a model",
            space,
            "text_encoders",
            "search.choices",
            "a",
        )

    def _show_overrides(self) -> None:
        """While it is open: of thirty models and more it is a lot to be drawn at every tick."""
        if not self._fold.value or self._shown == self._merges:
            return
        self._shown = merges = self._merges
        self._fields.forget("nodes.")
        self._nodes.clear()
        samplers = {"": "as the others", **{name: name for name in SEARCHES}}
        tallies = {"": "as the others", **tally_words()}
        with self._nodes:
            if not merges:
                ui.label("Pick the models first.").classes("soft small")
            for name in merges:
                own, at = self._form.overrides.setdefault(name, Override()), f"nodes.{name}"
                ui.label(name).classes("small strong wrap")
                with ui.element("div").classes("fields small-fields tight-fields"):
                    self._fields.number(
                        f"Trials of {name}", own, "trials", f"{at}.search.trials", placeholder="the same"
                    )
                    self._fields.choice(
                        f"Sampler of {name}", own, "sampler", samplers, f"{at}.search.sampler"
                    )
                    self._fields.choice(f"Tally of {name}", own, "tally", tallies, f"{at}.tally")
