"""The text encoders that a search chooses among: checked before it is queued, and found again as it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from optimizer.checkpoints import Inspection
from optimizer.checkpoints.architectures import Architecture
from optimizer.checkpoints.hashes import HashCache
from optimizer.checkpoints.parts import Component
from optimizer.choices import OF_A, OF_B, OF_PARENTS, TEXT_ENCODER, UNIFORM, ChoiceSettings
from optimizer.foreseen import parts_size
from scoring.errors import InputError
from service.catalog import Catalog
from service.jobs import NodePlan
from service.leaves import Part
from service.settings import Settings
from service.sources import Source, part_paths

Files = Mapping[str, Sequence[Path]]
"""Option -> the file of its text encoder, or those whose mean it is."""


class EncoderModels:
    """The models of a job whose text encoders may be chosen; each is looked at once."""

    def __init__(self, settings: Settings, architecture: Architecture) -> None:
        self._catalog, self._hashes = Catalog(settings.models_dir), HashCache(settings.cache_dir)
        self._architecture = architecture
        self._known: dict[str, Part] = {}

    def among(self, options: Sequence[str]) -> dict[str, Part]:
        """Option -> its model, for those that name one.

        Raises InputError for a model that is not there, whose text encoder is broken or does not fit the
        architecture, and for one that is named twice.
        """
        found = {option: self._part(option) for option in options if option not in OF_PARENTS}
        for option, part in found.items():
            same = next(other for other, known in found.items() if known.sha256 == part.sha256)
            if same != option:
                raise InputError(
                    f"search.choices.{TEXT_ENCODER}: {same!r} and {option!r} are one file; name it once"
                )
        return found

    def _part(self, option: str) -> Part:
        if option not in self._known:
            with _naming(option):
                path = self._catalog.path(option)
                parts_size({"text_encoder": [path]}, self._architecture)
                self._catalog.check_finite(option, "text_encoder")
            self._known[option] = Part(name=option, sha256=self._hashes.sha256(path))
        return self._known[option]


def check_parents(
    choices: ChoiceSettings,
    encoders: Mapping[str, Part],
    where: str,
    a: Inspection | None,
    b: Inspection | None,
) -> None:
    """Raise InputError where a merge would choose between one text encoder and itself.

    encoders: the models among them. where: the node's name. a, b: the leaves that it merges; None for what is
    none.
    """
    for option, parent in ((OF_A, a), (OF_B, b)):
        if parent is None or option not in (choices.text_encoder or ()):
            continue
        for name, part in encoders.items():
            if part.sha256 == parent.sha256:
                raise InputError(
                    f"search.choices.{TEXT_ENCODER}: {name!r} is {option} of node {where}; name it once, or "
                    f"say other choices for it, as nodes: {{{where}: {{search: {{choices: …}}}}}}"
                )


def encoder_files(plan: NodePlan, catalog: Catalog, hashes: HashCache, a: Source, b: Source) -> Files:
    """What a merge chooses among, and what its baselines have; {} where nothing is chosen.

    Raises InputError when a model is not the file that it was.
    """
    if not plan.search.choices.options:
        return {}
    own: dict[str, list[Path]] = {OF_A: [a.path], OF_B: [b.path], UNIFORM: [a.path, b.path]}
    named = {
        option: part_paths(catalog, hashes, {"text_encoder": [part]})["text_encoder"]
        for option, part in plan.encoders.items()
    }
    return {**own, **named}


def chosen_parts(files: Files, choices: Mapping[str, str] | None) -> dict[Component, list[Path]]:
    """What the file of such a trial has that A has not."""
    option = (choices or {}).get(TEXT_ENCODER, OF_A)
    return {} if option == OF_A else {"text_encoder": list(files[option])}


@contextmanager
def _naming(option: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"search.choices.{TEXT_ENCODER}: {option!r}: {error}") from error
