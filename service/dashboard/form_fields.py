"""The inputs of a form, each bound to a value and known by its place in the job file, where errors are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from nicegui import ui
from nicegui.elements.mixins.validation_element import ValidationElement

from service.dashboard.job_form import places_of
from service.dashboard.layout import panel

Options = Sequence[str] | Mapping[str, str]
Input = TypeVar("Input", bound=ValidationElement[Any])


class Fields:
    """Inputs that write into the attributes of an object. changed: called whenever one was changed."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.changed = changed
        self._inputs: dict[str, ValidationElement[Any]] = {}
        self._banners: dict[str, ui.label] = {}
        self._folds: list[ui.expansion] = []
        self._fold_of: dict[str, list[ui.expansion]] = {}

    @contextmanager
    def section(self, at: str, title: str, note: str = "") -> Iterator[None]:
        """A part of the form. at: its place in the job file; errors there are shown in it."""
        with panel(title, note=note):
            self.banner(at)
            yield

    @contextmanager
    def fold(self, title: str, icon: str, at: str = "") -> Iterator[ui.expansion]:
        """A part that is folded until it is opened, or has an error in it."""
        with ui.expansion(title, icon=icon).classes("wipe-box") as fold:
            self._folds.append(fold)
            if at:
                self.banner(at)
            yield fold
            self._folds.pop()

    def banner(self, at: str) -> None:
        """Where errors at a place are said."""
        label = ui.label().classes("banner bad").props('role="alert"')
        label.set_visibility(False)
        self._banners[at] = label
        self._note_fold(at)

    def text(self, label: str, target: object, name: str, at: str = "", placeholder: str = "") -> ui.input:
        """One line of text."""
        shown = ui.input(label, value=getattr(target, name), placeholder=placeholder)
        shown.props("outlined dense debounce=200" + (" stack-label" if placeholder else ""))
        shown.on_value_change(lambda event: self._set(target, name, event.value or ""))
        return self._known(shown, at)

    def area(self, label: str, target: object, name: str, at: str = "", placeholder: str = "") -> ui.textarea:
        """Several lines of text."""
        shown = ui.textarea(label, value=getattr(target, name), placeholder=placeholder)
        shown.props("outlined autogrow debounce=300" + (" stack-label" if placeholder else ""))
        shown.classes("wide")
        shown.on_value_change(lambda event: self._set(target, name, event.value or ""))
        return self._known(shown, at)

    def number(
        self,
        label: str,
        target: object,
        name: str,
        at: str = "",
        *,
        placeholder: str = "",
        suffix: str = "",
        least: float | None = 0,
    ) -> ui.number:
        """A number; none where it is left empty."""
        shown = ui.number(
            label, value=getattr(target, name), placeholder=placeholder, min=least, suffix=suffix or None
        )
        shown.props("outlined dense debounce=300" + (" stack-label" if placeholder else ""))
        shown.on_value_change(lambda event: self._set(target, name, event.value))
        return self._known(shown, at)

    def choice(self, label: str, target: object, name: str, options: Options, at: str = "") -> ui.select:
        """One of several. options: values, or value -> words."""
        given = dict(options) if isinstance(options, Mapping) else list(options)
        shown = ui.select(given, value=getattr(target, name), label=label).props("outlined dense")
        shown.on_value_change(lambda event: self._set(target, name, event.value))
        return self._known(shown, at)

    def several(self, label: str, target: object, name: str, options: Sequence[str], at: str = "") -> None:
        """Any of several."""
        shown = ui.select(list(options), value=list(getattr(target, name)), label=label, multiple=True)
        shown.props("outlined dense use-chips")
        shown.on_value_change(lambda event: self._set(target, name, list(event.value or [])))
        self._known(shown, at)

    def switch(self, label: str, target: object, name: str) -> ui.switch:
        """On or off."""
        shown = ui.switch(label, value=getattr(target, name))
        shown.on_value_change(lambda event: self._set(target, name, bool(event.value)))
        return shown

    def say(self, words: str) -> bool:
        """Show an error beside the field that its first word names, else in its part of the form.

        False where the form has no such place.
        """
        place = next((at for at in places_of(words) if at in self._inputs or at in self._banners), None)
        if place is None:
            return False
        self.say_at(place, _without_place(words, place))
        return True

    def say_at(self, place: str, words: str) -> None:
        """Show an error at a place that the form has, and bring it into view."""
        for fold in self._fold_of.get(place, []):
            fold.set_value(True)
        shown: ui.element
        if place in self._inputs:
            shown = self._inputs[place]
            self._inputs[place].error = words
        else:
            shown = self._banners[place]
            self._banners[place].set_text(words)
            shown.set_visibility(True)
        into_view(shown)

    def clear(self) -> None:
        """No error is shown any more."""
        for label in self._banners.values():
            label.set_visibility(False)
        for field in self._inputs.values():
            field.error = None

    def forget(self, places: str) -> None:
        """The inputs at these places, and below them, are drawn anew."""
        for at in [at for at in self._inputs if at.startswith(places)]:
            del self._inputs[at]

    def _known(self, field: Input, at: str) -> Input:
        if at:
            self._inputs[at] = field
            self._note_fold(at)
        return field

    def _note_fold(self, at: str) -> None:
        self._fold_of[at] = list(self._folds)

    def _set(self, target: object, name: str, value: object) -> None:
        setattr(target, name, value)
        self.changed()


def _without_place(words: str, place: str) -> str:
    """What is wrong, as it is said beside the very place."""
    told = words.removeprefix(f"{place}: ")
    return told[:1].upper() + told[1:]


def into_view(element: ui.element) -> None:
    """Scroll until an element is in the middle of the window."""
    ui.run_javascript(
        f"getHtmlElement({element.id})?.scrollIntoView({{block: 'center', behavior: 'smooth'}})"
    )
