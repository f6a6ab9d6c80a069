"""Where the components of a job's checkpoints come from, as a request says it: `from`, `uniform`, `keep`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from optimizer.checkpoints.parts import Component


class From(BaseModel):
    """A component of one model."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    model: str = Field(
        alias="from",
        description="A model of the models folder; a bare UNet, text encoder or VAE will do.",
    )

    @property
    def models(self) -> tuple[str, ...]:
        """What it is made of."""
        return (self.model,)


class Uniform(BaseModel):
    """The mean of a component over several models."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    uniform: list[str] = Field(min_length=2, description="Two or more models, each once.")

    @property
    def models(self) -> tuple[str, ...]:
        """What it is made of."""
        return tuple(self.uniform)


def _kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "keep"
    if isinstance(value, dict):
        return next((kind for kind in ("from", "uniform") if kind in value), None)
    if isinstance(value, From):
        return "from"
    return "uniform" if isinstance(value, Uniform) else None


Choice = Annotated[
    Annotated[Literal["keep"], Tag("keep")]
    | Annotated[From, Tag("from")]
    | Annotated[Uniform, Tag("uniform")],
    Discriminator(
        _kind,
        custom_error_type="component",
        custom_error_message="say keep, {from: MODEL} or {uniform: [MODEL, MODEL, …]}",
    ),
]
"""Where one component comes from."""


class SharedParts(BaseModel):
    """Text encoder and VAE of every leaf that does not say its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text_encoder: Choice = Field(default="keep", description="For SDXL both of them.")
    vae: Choice = "keep"


class Leaf(BaseModel):
    """A leaf that is put together from components; a plain name is a model as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, description="What the bracket calls it.")
    model: str | None = Field(
        default=None,
        description="Whose components are kept. If not given: the model of this name, and where there is "
        "none, the (first) model of the UNet.",
    )
    unet: Choice | None = Field(default=None, description="keep, if not given.")
    text_encoder: Choice | None = Field(default=None, description="As the job's `components`, if not given.")
    vae: Choice | None = Field(default=None, description="As the job's `components`, if not given.")

    def choice(self, component: Component, shared: SharedParts) -> Choice:
        """What is said of a component, here or for all leaves."""
        own: Choice | None = getattr(self, component)
        if own is not None:
            return own
        everywhere: Choice = getattr(shared, component, "keep")
        return everywhere


AnyLeaf = Annotated[
    Annotated[str, Tag("name")] | Annotated[Leaf, Tag("leaf")],
    Discriminator(
        lambda value: (
            "name" if isinstance(value, str) else "leaf" if isinstance(value, dict | Leaf) else None
        ),
        custom_error_type="leaf",
        custom_error_message="a leaf is a model's name, or {name: NAME, unet: …, text_encoder: …, vae: …}",
    ),
]


class OutputFile(BaseModel):
    """The final checkpoint. What is not said of it is that of the final merge's A."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(default=None, description="As with a plain name, if not given.")
    text_encoder: Choice = "keep"
    vae: Choice = Field(default="keep", description="The VAE that is baked in. No trial is rendered with it.")

    @property
    def replaced(self) -> dict[Component, tuple[str, ...]]:
        """Component -> the models that it comes from, where that is not A."""
        said: tuple[tuple[Component, Choice], ...] = (("text_encoder", self.text_encoder), ("vae", self.vae))
        return {part: choice.models for part, choice in said if not isinstance(choice, str)}


AnyOutput = Annotated[
    Annotated[str, Tag("name")] | Annotated[OutputFile, Tag("file")],
    Discriminator(
        lambda value: (
            "name" if isinstance(value, str) else "file" if isinstance(value, dict | OutputFile) else None
        ),
        custom_error_type="output",
        custom_error_message="the output is a name, or {name: NAME, text_encoder: …, vae: …}",
    ),
]


class Part(BaseModel):
    """A model of the models folder from which a component is taken. sha256: when the job was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sha256: str


Parts = dict[Component, list[Part]]
"""Component -> where it comes from; of several the mean."""
