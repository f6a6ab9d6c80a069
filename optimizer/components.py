"""Components of checkpoints put together anew: extracted, swapped, joined, averaged, converted, pruned.

Everything is one plan (where each component comes from) written by one function, tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from optimizer.checkpoints.architectures import TITLES, Architecture
from optimizer.checkpoints.bare import open_component
from optimizer.checkpoints.inspection import find_architecture
from optimizer.checkpoints.names import EMA_PREFIX
from optimizer.checkpoints.opening import ema_as_unet
from optimizer.checkpoints.parts import (
    COMPONENTS,
    Component,
    check_component,
    component_of,
    fitting,
)
from optimizer.checkpoints.reading import CheckpointFile, Entry, open_file
from optimizer.checkpoints.unets import Elsewhere
from optimizer.checkpoints.writing import Sealed, write_streamed
from optimizer.means import Means
from scoring.errors import InputError

Ema = Literal["drop", "use"]
Metadata = Mapping[str, str]
Sources = Mapping[Component, Path | Sequence[Path]]
"""Component -> the file that it comes from, or several, whose mean it is."""


@dataclass(frozen=True)
class Plan:
    """A checkpoint to be written. dtype: of all weights; None: as each file has them.

    components: component -> the files it comes from; several: the mean of theirs. rest: whose other tensors
    (noise schedule, markers) go in too; EMA copies never do.
    """

    components: Mapping[Component, Sequence[CheckpointFile]]
    rest: CheckpointFile | None
    dtype: torch.dtype | None


@dataclass(frozen=True)
class Held:
    """What a file holds of one component."""

    component: Component
    tensors: int
    parameters: int
    dtypes: tuple[torch.dtype, ...]
    fits: tuple[Architecture, ...]
    """The architectures that take it; none where it is not whole."""


@contextmanager
def open_sources(
    sources: Sources, architecture: Architecture | None = None
) -> Iterator[tuple[Architecture, dict[Component, list[CheckpointFile]]]]:
    """Open the files that components come from, each found to hold its component whole.

    architecture: of the checkpoint that they go into; None: that of the (first) UNet among them, which must
    be there. Raises InputError as `join`.
    """
    with ExitStack() as stack:
        opened: dict[Path, CheckpointFile] = {}
        files: dict[Component, list[CheckpointFile]] = {}
        for component in (part for part in COMPONENTS if part in sources):
            given = sources[component]
            paths = [given] if isinstance(given, Path) else list(given)
            for path in paths:
                if path not in opened:
                    opened[path] = stack.enter_context(open_component(path))
            files[component] = [opened[path] for path in paths]
        found = architecture or _architecture(files["unet"][0])
        for component, several in files.items():
            for file in several:
                check_component(file, component, found)
        yield found, files


def elsewhere(files: Mapping[Component, Sequence[CheckpointFile]], means: Means) -> dict[str, Elsewhere]:
    """Every tensor of components as `write_with_unet` takes them; of several files it is the mean."""
    sources = _sources(Plan(files, None, None))
    return {
        key: Elsewhere(several[0].entries[key], partial(means.mean, several, key))
        for key, several in sources.items()
    }


def components_in(path: Path) -> tuple[Held, ...]:
    """The components that a file or diffusers folder holds, a bare VAE or text encoder too."""
    with open_component(path) as file:
        found = []
        for component in COMPONENTS:
            entries = [entry for key, entry in file.entries.items() if component_of(key) == component]
            if entries:
                dtypes = tuple(sorted({entry.dtype for entry in entries}, key=str))
                numbers = sum(entry.numel for entry in entries)
                found.append(Held(component, len(entries), numbers, dtypes, fitting(file, component)))
        return tuple(found)


def extract(
    path: Path,
    components: Sequence[Component],
    out: Path,
    *,
    metadata: Metadata,
    dtype: torch.dtype | None = None,
    sealed: Sealed | None = None,
) -> None:
    """Write some components of a file alone, under the keys of a whole checkpoint.

    dtype: of its weights; None: as they are. sealed: see `write_streamed`. Raises InputError for a component
    that the file does not hold whole, and when the file cannot be written.
    """
    with open_component(path) as file:
        for component in components:
            architectures = fitting(file, component)
            check_component(file, component, architectures[0] if architectures else _architecture(file))
        _write(out, Plan({component: [file] for component in components}, None, dtype), metadata, sealed)


def join(
    sources: Sources,
    out: Path,
    *,
    metadata: Metadata,
    dtype: torch.dtype | None = None,
    sealed: Sealed | None = None,
) -> Architecture:
    """Write a checkpoint of a UNet, a text encoder and a VAE that come from different files.

    sources: for every component a file (a checkpoint, a diffusers folder, or that component in a file of its
    own), or several, whose mean is taken. The UNet's (first) file gives all else, such as the noise schedule.
    dtype: of all weights; None: as each file has them. sealed: see `write_streamed`. Returns the
    architecture. Raises InputError for a component that has no source, that its file does not hold whole, or
    that is of another architecture than the UNet, and when the file cannot be written; an older `out` then
    stays as it was.
    """
    lacking = [component for component in COMPONENTS if not sources.get(component)]
    if lacking:
        raise InputError(
            f"nothing is said of the {lacking[0]}; name a file for each of {', '.join(COMPONENTS)}"
        )
    with open_sources(sources) as (architecture, files):
        _write(out, Plan(files, files["unet"][0], dtype), metadata, sealed)
    return architecture


def swap(
    base: Path,
    component: Component,
    source: Path,
    out: Path,
    *,
    metadata: Metadata,
    dtype: torch.dtype | None = None,
    sealed: Sealed | None = None,
) -> Architecture:
    """Write `base` with one component from another file; see `join`. What `base` lacks may stay lacking."""
    with open_component(base) as file, open_component(source) as other:
        architecture = _architecture(other if component == "unet" else file)
        kept = [part for part in COMPONENTS if part != component and _has(file, part)]
        for part in kept:
            check_component(file, part, architecture)
        check_component(other, component, architecture)
        components = {part: [other if part == component else file] for part in {*kept, component}}
        _write(out, Plan(components, other if component == "unet" else file, dtype), metadata, sealed)
    return architecture


def convert(
    path: Path, out: Path, *, metadata: Metadata, dtype: torch.dtype, sealed: Sealed | None = None
) -> None:
    """Write a file with all weights in another precision, each rounded once; EMA copies are left out.

    Whole numbers and the noise schedule stay as they are. Raises InputError for a number that float16 cannot
    hold.
    """
    with open_component(path) as file:
        _write(out, _all_of(file, dtype), metadata, sealed)


def prune(
    path: Path,
    out: Path,
    *,
    metadata: Metadata,
    ema: Ema = "drop",
    dtype: torch.dtype | None = None,
    sealed: Sealed | None = None,
) -> None:
    """Write a file without EMA copies. ema `use`: with the copy in the UNet's place, `drop`: without it.

    A file whose UNet is an EMA copy alone keeps it as its UNet either way. Raises InputError for `use` where
    there is no copy.
    """
    with open_component(path) as file:
        if ema == "use" and not file.unet_from_ema:
            with ema_as_unet(open_file(path)) as averaged:
                check_component(averaged, "unet", find_architecture(averaged))
                _write(out, _all_of(averaged, dtype), metadata, sealed)
        else:
            _write(out, _all_of(file, dtype), metadata, sealed)


def average(
    paths: Sequence[Path],
    components: Sequence[Component],
    out: Path,
    *,
    metadata: Metadata,
    dtype: torch.dtype | None = torch.float16,
    sealed: Sealed | None = None,
) -> Architecture:
    """Write the mean of some components of two or more files; all else is the first file's.

    The mean is summed in fp32 (more than 8 files: in fp64) and rounded once. Memory: two of the largest
    tensor. See `join` for the rest. Raises InputError for fewer than two files too.
    """
    if len(paths) < 2:
        raise InputError(f"two or more checkpoints are needed, not {len(paths)}; name another one")
    with ExitStack() as stack:
        files = [stack.enter_context(open_component(path)) for path in paths]
        first, *others = files
        architecture = _architecture(first)
        for file in others:
            _check_same(first, architecture, file)
        for component in components:
            for file in files:
                check_component(file, component, architecture)
        plan = Plan(
            {
                component: files if component in components else [first]
                for component in COMPONENTS
                if component in components or _has(first, component)
            },
            first,
            dtype,
        )
        _write(out, plan, metadata, sealed)
    return architecture


def _all_of(file: CheckpointFile, dtype: torch.dtype | None) -> Plan:
    return Plan({component: [file] for component in COMPONENTS if _has(file, component)}, file, dtype)


def _has(file: CheckpointFile, component: Component) -> bool:
    return any(component_of(key) == component for key in file.entries)


def _architecture(file: CheckpointFile) -> Architecture:
    """By the UNet, else by whatever component only one architecture has."""
    if _has(file, "unet"):
        return find_architecture(file)
    held = [component for component in COMPONENTS if _has(file, component)]
    fits = [fitting(file, component) for component in held]
    found = next((names[0] for names in fits if names), None)
    if found is None:
        raise InputError(f"{file.path.name} has no whole UNet, text encoder or VAE; use a whole model")
    return found


def _check_same(first: CheckpointFile, architecture: Architecture, other: CheckpointFile) -> None:
    if not _has(other, "unet"):
        return
    theirs = find_architecture(other)
    if theirs != architecture:
        raise InputError(
            f"{first.path.name} is {TITLES[architecture]} and {other.path.name} is {TITLES[theirs]}, "
            "different architectures; choose models of one architecture"
        )


def _write(out: Path, plan: Plan, metadata: Metadata, sealed: Sealed | None = None) -> None:
    sources = _sources(plan)
    layout = {
        key: Entry(_stored(key, files[0].entries[key], plan.dtype), files[0].entries[key].shape)
        for key, files in sources.items()
    }
    with Means() as means:

        def produce(key: str) -> Tensor:
            files, dtype = sources[key], layout[key].dtype
            if len(files) == 1 and files[0].entries[key].dtype == dtype:
                return means.read(files[0], key)
            return means.mean(files, key, dtype)

        write_streamed(out, layout, produce, metadata, sealed)


def _sources(plan: Plan) -> dict[str, Sequence[CheckpointFile]]:
    """Key -> the file or files that its tensor is read from."""
    found: dict[str, Sequence[CheckpointFile]] = {}
    if plan.rest is not None:
        found |= {
            key: [plan.rest]
            for key in plan.rest.entries
            if component_of(key) is None and not key.startswith(EMA_PREFIX)
        }
    for component, files in plan.components.items():
        for key in files[0].entries:
            if component_of(key) == component:
                found[key] = files if _averaged(key, files) else files[:1]
    return found


def _averaged(key: str, files: Sequence[CheckpointFile]) -> bool:
    """Whether every file has these numbers; what only the first has beside the component is taken from it."""
    entry = files[0].entries[key]
    return entry.dtype.is_floating_point and all(
        key in file.entries and file.entries[key].numel == entry.numel for file in files
    )


def _stored(key: str, entry: Entry, dtype: torch.dtype | None) -> torch.dtype:
    # Whole numbers and the noise schedule are no weights: rounding them would break them.
    is_weight = entry.dtype.is_floating_point and component_of(key) is not None
    return dtype if dtype is not None and is_weight else entry.dtype
