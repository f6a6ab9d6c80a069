"""The form's part on models: which are merged, in which order, and whose text encoder and VAE they have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nicegui import ui

from optimizer.bracket import Pick, parse_input
from optimizer.checkpoints.architectures import TITLES, Architecture
from scoring.errors import InputError
from service.dashboard.family_tree import Member, draw_family
from service.dashboard.form_fields import Fields
from service.dashboard.job_form import KEEP, MEAN, SIZES, JobForm, PartChoice
from service.dashboard.site import site
from service.dashboard.texts import size

MOST_DRAWN = 16
"""Of more models the merges are listed: their drawing would be higher than the window."""
BRACKETS = {
    "balanced": "balanced: rounds of pairs",
    "sequential": "sequential: one after the other",
    "explicit": "as I write it below",
}
SEEDINGS = {
    "given": "as picked",
    "score": "by score: the best meet first",
    "distance": "by distance: alike models meet first",
}
PREDICTIONS = {"": "as the files say", "epsilon": "epsilon", "v_prediction": "v_prediction"}


@dataclass(frozen=True)
class ModelRow:
    """A model of the folder. trouble: in words, where it cannot be read."""

    name: str
    architecture: Architecture | None
    about: str
    trouble: str = ""


def model_rows() -> list[ModelRow]:
    """All models of the folder, as far as their headers tell; the readable ones first."""
    catalog = site().catalog
    rows = []
    for name in catalog.names():
        try:
            header = catalog.header(name)
        except (InputError, OSError) as error:
            rows.append(ModelRow(name, None, "", str(error)))
            continue
        about = f"{TITLES[header.architecture]} · {header.prediction_type} · {size(header.size)}"
        rows.append(ModelRow(name, header.architecture, about))
    return sorted(rows, key=lambda row: (bool(row.trouble), row.name))


class ModelsPart:
    """Tick boxes, the bracket with its preview, and the components."""

    def __init__(self, fields: Fields, form: JobForm, rows: Sequence[ModelRow]) -> None:
        self._fields, self._form = fields, form
        self._rows = {row.name: row for row in rows}
        self._shown: tuple[object, ...] = ()
        with ui.element("div").classes("models"):
            for row in rows:
                self._row(row)
        with ui.element("div").classes("fields"):
            fields.choice("Bracket", form, "bracket", BRACKETS)
            self._seeding = fields.choice("Order of the models", form, "seeding", SEEDINGS, "bracket.seeding")
        self._merges = fields.area(
            "Merges, one a line", form, "merges", "bracket.table", "01b = one + two\n02b = 01b + three"
        )
        ui.label("What is merged with what").classes("small strong")
        self._bracket = ui.element("div").classes("bracket").props('aria-live="polite"')
        with fields.fold("Text encoders and VAEs: whose they are", "tune", "components") as self._fold:
            ui.label(
                "The search moves the UNet alone. Every model keeps its own text encoder and VAE, unless you "
                "say another here; a merge has those of its A."
            ).classes("soft small")
            self._components()
        self._fold.on_value_change(self._show_leaf_parts)

    @property
    def architecture(self) -> Architecture | None:
        """Of the model that was ticked first."""
        first = next(iter(self._form.leaves), None)
        return self._rows[first].architecture if first in self._rows else None

    def changed(self) -> int:
        """Show anew what follows from the fields; how many merges there will be."""
        explicit = self._form.bracket == "explicit"
        self._merges.set_visibility(explicit)
        self._seeding.set_visibility(not explicit)
        merges: list[tuple[str, str, str]] = []
        trouble = ""
        try:
            merges = self._form.table() if len(self._form.leaves) > 1 else []
        except InputError as error:
            trouble = str(error)
        shown = (tuple(self._form.leaves), tuple(merges), trouble)
        if shown != self._shown:
            self._shown = shown
            self._show_bracket(merges, trouble)
        self._show_leaf_parts()
        return len(merges)

    def _row(self, row: ModelRow) -> None:
        with ui.element("label").classes("model-row" + (" off" if row.trouble else "")):
            box = ui.checkbox(on_change=lambda event: self._pick(row.name, bool(event.value)))
            box.props["aria-label"] = row.name
            box.set_enabled(not row.trouble)
            with ui.element("div").classes("grow"):
                ui.label(row.name).classes("strong wrap")
                ui.label(row.trouble or row.about).classes(f"small wrap {'bad' if row.trouble else 'soft'}")

    def _pick(self, name: str, on: bool) -> None:
        others = [leaf for leaf in self._form.leaves if leaf != name]
        self._form.leaves = [*others, name] if on else others
        self._fields.changed()

    def _show_bracket(self, merges: Sequence[tuple[str, str, str]], trouble: str) -> None:
        self._bracket.clear()
        with self._bracket:
            if trouble:
                ui.label(trouble).classes("bad small wrap")
            elif not merges:
                ui.label("Pick two models or more.").classes("soft small")
            elif len(self._form.leaves) > MOST_DRAWN:
                for o, a, b in merges:
                    ui.label(f"{o} = {a} + {b}").classes("small wrap")
            else:
                draw_family(_family(merges))

    def _components(self) -> None:
        models = [row.name for row in self._rows.values()]
        choices = [KEEP, MEAN, *models]
        with ui.element("div").classes("fields"):
            self._fields.choice("Text encoder of all", self._form.parts, "text_encoder", choices)
            self._fields.choice("VAE of all", self._form.parts, "vae", choices)
            self._fields.choice("VAE baked into the result", self._form, "baked_vae", choices, "output.vae")
            self._fields.choice(
                "What the models predict", self._form, "prediction_type", PREDICTIONS, "prediction_type"
            )
        self._leaf_parts = ui.element("div").classes("wide")
        self._leaf_parts_of: list[str] = []

    def _show_leaf_parts(self) -> None:
        """While it is open: of thirty models and more it is a lot to be drawn at every tick."""
        if not self._fold.value or self._leaf_parts_of == self._form.leaves:
            return
        self._leaf_parts_of = list(self._form.leaves)
        self._leaf_parts.clear()
        choices = {"": "as for all", **{name: name for name in (KEEP, MEAN, *self._rows)}}
        with self._leaf_parts:
            for name in self._form.leaves:
                own = self._form.leaf_parts.setdefault(name, PartChoice())
                ui.label(name).classes("small strong wrap")
                with ui.element("div").classes("fields tight-fields"):
                    self._fields.choice(f"Text encoder of {name}", own, "text_encoder", choices)
                    self._fields.choice(f"VAE of {name}", own, "vae", choices)


class SizeFollower:
    """Sizes that a person left as they were follow the first model that is ticked."""

    def __init__(self, form: JobForm, width: ui.number, height: ui.number) -> None:
        self._form, self._set = form, (width.set_value, height.set_value)
        self._seen: Architecture | None = None

    def follow(self, architecture: Architecture | None) -> None:
        """The first model that is ticked is of this architecture."""
        if architecture is None or architecture == self._seen:
            return
        self._seen = architecture
        if self._form.width == self._form.height and self._form.width in SIZES.values():
            for set_side in self._set:
                set_side(SIZES[architecture])


def _family(merges: Sequence[tuple[str, str, str]]) -> list[Member]:
    made = {o: Member(o, o, f"{a} + {b}", (*_sides(a), *_sides(b)), f"{o} = {a} + {b}") for o, a, b in merges}
    leaves = dict.fromkeys(side for one in made.values() for side in one.parents if side not in made)
    return [*(Member(leaf, leaf, "model", hint=leaf) for leaf in leaves), *made.values()]


def _sides(text: str) -> tuple[str, ...]:
    said = parse_input(text)
    return said.candidates if isinstance(said, Pick) else (said,)
