"""What the leaves of a job and its output are put together from, checked before anything is queued."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from optimizer.checkpoints import Inspection
from optimizer.checkpoints.architectures import Architecture
from optimizer.checkpoints.hashes import HashCache
from optimizer.checkpoints.parts import COMPONENTS, WORDS, Component
from optimizer.foreseen import Foreseen, foresee, parts_size
from scoring.errors import InputError
from service.catalog import Catalog, digest
from service.jobs import JobRequest
from service.leaves import Choice, Leaf, Part, Parts, SharedParts

Models = Mapping[Component, Sequence[str]]
"""Component -> the models that it comes from; of several the mean."""


class Leaves:
    """The leaves of a request as it composes them, by name.

    composed: those that are put together, in the order of `names`; all others are models as they are. Raises
    InputError for a model that is not there, a mean that names one twice, and a name that says one thing
    while its components say another.
    """

    def __init__(
        self, request: JobRequest, names: Sequence[str], catalog: Catalog, hashes: HashCache
    ) -> None:
        self._catalog, self._hashes = catalog, hashes
        self._foreseen: dict[str, Foreseen] = {}
        said = {leaf.name: leaf for leaf in request.leaves if isinstance(leaf, Leaf)}
        # Not validated: what no model can be called is refused by the catalog, in its own words.
        leaves = [said.get(name, Leaf.model_construct(name=name)) for name in names]
        found = {leaf.name: self._models(leaf, request.components) for leaf in leaves}
        self.composed: dict[str, Models] = {name: models for name, models in found.items() if models}
        self._baked: Models = request.baked.replaced
        with _naming("output"):
            for models in self._baked.values():
                self._paths(models)

    def header(self, name: str) -> Inspection:
        """What headers tell of a leaf. Raises InputError."""
        return self._foresee(name).inspection if name in self.composed else self._catalog.header(name)

    def inspect(self, name: str) -> Inspection:
        """The inspection of a leaf; one that is put together has no hash yet.

        Reads what goes in. Raises InputError where that is broken.
        """
        if name not in self.composed:
            return self._catalog.inspect(name)
        with _naming(f"leaf {name!r}"):
            self._check_finite(self.composed[name])
        return self._foresee(name).inspection

    def notes(self, name: str) -> list[str]:
        """What people should know of a leaf that is put together: what of, first."""
        return [f"{name}: {parts_text(self.composed[name])}", *self._foresee(name).notes]

    def parts(self, name: str) -> Parts:
        """What a leaf is put together from, hashed; {} for a model as it is."""
        return self._hashed(self.composed.get(name, {}))

    def unet_of(self, name: str) -> tuple[str, ...]:
        """The hashes of the files that a leaf's UNet comes from, sorted."""
        if name not in self.composed:
            return (digest(self._catalog.inspect(name)),)
        return tuple(sorted(part.sha256 for part in self.parts(name)["unet"]))

    def unet_file(self, name: str) -> Path:
        """A file with a leaf's UNet that is there now. Raises InputError for a mean."""
        models = self.composed.get(name, {}).get("unet", (name,))
        if len(models) > 1:
            raise InputError(
                f"bracket: seeding `distance` compares files, and the UNet of leaf {name!r} is a mean that "
                "is made later; seed as `given` or by `score`, or make it first with `autombw uniform`"
            )
        return self._catalog.path(models[0])

    def baked(self, architecture: Architecture) -> Parts:
        """What goes into the final checkpoint in the place of its A's. Raises InputError."""
        with _naming("output"):
            parts_size(self.baked_paths(), architecture)
            self._check_finite(self._baked)
        return self._hashed(self._baked)

    def baked_paths(self) -> dict[Component, list[Path]]:
        """The files of it."""
        return {part: self._paths(models) for part, models in self._baked.items()}

    def _models(self, leaf: Leaf, shared: SharedParts) -> Models | None:
        """Component -> its models; None for a model as it is."""
        with _naming(f"leaf {leaf.name!r}"):
            unet = leaf.choice("unet", shared)
            base = self._base(leaf, unet)
            found = {part: _models_of(leaf.choice(part, shared), base) for part in COMPONENTS}
            for models in found.values():
                self._paths(models)
            if any(list(models) != [base] for models in found.values()):
                return found
            if base != leaf.name:
                raise InputError(f"it is model {base!r} as it is; name that one instead")
            return None

    def _base(self, leaf: Leaf, unet: Choice) -> str:
        """The model whose components are kept."""
        is_model = self._is_model(leaf.name)
        if is_model and leaf.model not in (None, leaf.name):
            raise InputError(f"there is a model of that name, and this is made of {leaf.model!r}; rename it")
        if isinstance(unet, str):
            return leaf.model or leaf.name
        if is_model and leaf.name not in unet.models:
            raise InputError(
                f"there is a model of that name, and this one's UNet comes from {', '.join(unet.models)}; "
                "rename it"
            )
        return leaf.model or (leaf.name if is_model else unet.models[0])

    def _is_model(self, name: str) -> bool:
        try:
            return self._catalog.path(name).exists()
        except InputError:
            return False

    def _paths(self, models: Sequence[str]) -> list[Path]:
        """The files of models. Raises InputError for an unknown one and for one that is named twice."""
        paths = [self._catalog.path(model) for model in models]
        for place, path in enumerate(paths):
            if path in paths[:place]:
                raise InputError(
                    f"the mean names {models[place]!r} twice; each weighs the same, name it once"
                )
        return paths

    def _foresee(self, name: str) -> Foreseen:
        if name not in self._foreseen:
            with _naming(f"leaf {name!r}"):
                paths = {part: self._paths(models) for part, models in self.composed[name].items()}
                self._foreseen[name] = foresee(name, paths)
        return self._foreseen[name]

    def _check_finite(self, models: Models) -> None:
        for part, several in models.items():
            for model in several:
                self._catalog.check_finite(model, part)

    def _hashed(self, models: Models) -> Parts:
        return {
            part: [
                Part(name=model, sha256=self._hashes.sha256(self._catalog.path(model))) for model in several
            ]
            for part, several in models.items()
        }


def parts_text(models: Models) -> str:
    """`UNet of one; text encoder the mean of two, three; VAE of four`."""
    return "; ".join(f"{WORDS[part]} {_of(several)}" for part, several in models.items())


def part_names(parts: Parts) -> Models:
    """The models of a plan's parts."""
    return {part: [source.name for source in several] for part, several in parts.items()}


def _models_of(choice: Choice, base: str) -> tuple[str, ...]:
    return (base,) if isinstance(choice, str) else choice.models


def _of(models: Sequence[str]) -> str:
    return f"of {models[0]}" if len(models) == 1 else f"the mean of {', '.join(models)}"


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Say of which leaf an error is."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
