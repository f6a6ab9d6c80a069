"""The components of a checkpoint: UNet, text encoder (SDXL: both of them) and VAE."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from optimizer.blocks import UNET_PREFIX
from optimizer.checkpoints.architectures import (
    ARCHITECTURES,
    TITLES,
    Architecture,
    Shapes,
    config,
    expected_tensors,
)
from optimizer.checkpoints.inspection import find_architecture, same_shape, shape_text
from optimizer.checkpoints.names import TEXT_PREFIXES, VAE_PREFIX
from optimizer.checkpoints.reading import CheckpointFile
from scoring.errors import InputError

Component = Literal["unet", "text_encoder", "vae"]
COMPONENTS: tuple[Component, ...] = ("unet", "text_encoder", "vae")
PREFIXES: dict[Component, tuple[str, ...]] = {
    "unet": (UNET_PREFIX,),
    "text_encoder": TEXT_PREFIXES,
    "vae": (VAE_PREFIX,),
}
WORDS = {"unet": "UNet", "text_encoder": "text encoder", "vae": "VAE"}
# SD2.x was trained in SD1.x's latent space, with the same autoencoder.
_SAME_LATENTS: tuple[frozenset[Architecture], ...] = (frozenset({"sd1", "sd2"}),)


def parse_components(names: Iterable[str]) -> tuple[Component, ...]:
    """Component names, each once and in their usual order; InputError for what is none."""
    wanted = list(names)
    unknown = [name for name in wanted if name not in COMPONENTS]
    if unknown or not wanted:
        raise InputError(
            f"{unknown[0]!r} is no component; the components are {', '.join(COMPONENTS)}"
            if unknown
            else f"name a component: {', '.join(COMPONENTS)}"
        )
    return tuple(component for component in COMPONENTS if component in wanted)


def component_of(key: str) -> Component | None:
    """The component that a tensor belongs to by its key; None for EMA copies, noise schedules and such."""
    return next((component for component in COMPONENTS if key.startswith(PREFIXES[component])), None)


def expected_part(architecture: str, component: Component) -> Shapes:
    """LDM key -> shape of what a whole component of an architecture holds."""
    expected = expected_tensors(architecture)
    return {"unet": expected.unet, "text_encoder": expected.text, "vae": expected.vae}[component]


def fitting(file: CheckpointFile, component: Component) -> tuple[Architecture, ...]:
    """The architectures of which the file holds this component whole; VAEs of SD have one shape."""
    return tuple(name for name in ARCHITECTURES if _first_fault(file, component, name) is None)


def check_component(file: CheckpointFile, component: Component, architecture: Architecture) -> None:
    """Raise InputError unless the file holds a component whole, as the architecture takes it."""
    word, title = WORDS[component], TITLES[architecture]
    _check_latents(file, component, architecture)
    if _first_fault(file, component, architecture) is None:
        return
    if not any(component_of(key) == component for key in file.entries):
        held = [WORDS[part] for part in COMPONENTS if any(component_of(key) == part for key in file.entries)]
        raise InputError(
            f"{file.path.name} has no {word}, only {' and '.join(held) or 'other tensors'}; "
            f"take the {word} from another model"
        )
    others = fitting(file, component)
    if others:
        widths = f" ({_width(others[0])} wide)", f" ({_width(architecture)} wide)"
        theirs, ours = widths if component == "text_encoder" else ("", "")
        raise InputError(
            f"the {word} of {file.path.name} is that of {TITLES[others[0]]}{theirs}, and {title} needs its "
            f"own{ours}; choose a model of {title}"
        )
    fault = _first_fault(file, component, architecture)
    raise InputError(
        f"the {word} of {file.path.name} does not fit {title}: {fault}; choose a whole model of {title}"
    )


def _check_latents(file: CheckpointFile, component: Component, architecture: Architecture) -> None:
    # SDXL's VAE has the shapes of SD1's and speaks of other latents: only a whole model tells whose it is.
    if component != "vae" or not any(component_of(key) == "unet" for key in file.entries):
        return
    theirs = find_architecture(file)
    if theirs != architecture and not any({theirs, architecture} <= same for same in _SAME_LATENTS):
        raise InputError(
            f"the VAE of {file.path.name} is that of {TITLES[theirs]}, whose latents {TITLES[architecture]} "
            f"does not share; choose a model of {TITLES[architecture]} or a VAE file"
        )


def _first_fault(file: CheckpointFile, component: Component, architecture: Architecture) -> str | None:
    for key, shape in expected_part(architecture, component).items():
        if key not in file.entries:
            return f"it lacks {key}"
        found = file.entries[key].shape
        if not same_shape(key, found, shape):
            return f"{key} is {shape_text(found)} where {shape_text(shape)} is needed"
    return None


def _width(architecture: Architecture) -> str:
    parts = ("text_encoder", "text_encoder_2") if architecture == "sdxl" else ("text_encoder",)
    return " and ".join(str(config(architecture, part)["hidden_size"]) for part in parts)
