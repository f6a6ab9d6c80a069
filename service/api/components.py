"""Routes that take checkpoints apart and put them together, as `autombw components` and `uniform` do.

Models are named as jobs name them; what is written lies in the folder of outputs. A request is answered when
its file is written: these routes run on threads, so that all others are answered in the meantime.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from optimizer.checkpoints import size_of
from optimizer.checkpoints.hashes import HashCache
from optimizer.checkpoints.parts import Component
from optimizer.component_recipes import ComponentRecipe
from optimizer.components import components_in
from service.api.context import Context, Ctx
from service.api.problems import responses
from service.component_files import ComponentFiles, Precision, held_row
from service.disk import DiskNearlyFull, check_room
from service.errors import Conflict
from service.planning import safe_name
from service.threads import takes_long

router = APIRouter(prefix="/api/v1", tags=["components"])
Models = Annotated[list[str], Field(min_length=1, description="One model, or several, whose mean is taken.")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    output: str = Field(description="Name of the file in the folder of outputs, without a suffix.")


class _Recast(_Request):
    dtype: Precision | None = Field(
        default=None, description="Precision of all weights; each as its file has it, if not given."
    )


class Extract(_Recast):
    """Components of a model in a file of their own."""

    model: str
    components: list[Component] = Field(min_length=1)


class Swap(_Recast):
    """A model with one component of another one."""

    model: str
    component: Component
    source: str = Field(description="The model, or a component's file, that it comes from.")


class Join(_Recast):
    """A checkpoint of the UNet of one, the text encoder of another, and the VAE of a third."""

    unet: Models
    text_encoder: Models
    vae: Models


class Convert(_Request):
    """A model in another precision, as one `.safetensors` file."""

    model: str
    dtype: Precision


class Prune(_Recast):
    """A model without EMA copies."""

    model: str
    ema: Literal["drop", "use"] = Field(default="drop", description="use: the copy becomes the UNet.")


class Uniform(_Request):
    """The mean of two or more models."""

    models: list[str] = Field(description="Two or more.")
    components: list[Component] = Field(
        default=["unet"], min_length=1, description="What is averaged; all else is the first model's."
    )
    dtype: Precision = "fp16"


class ComponentView(BaseModel):
    """What a file holds of one component."""

    model: str
    component: Component
    tensors: int
    parameters: int
    dtypes: list[str]
    fits: list[str] = Field(description="The architectures that take it; none where it is not whole.")


class Written(BaseModel):
    """A file that was written."""

    name: str
    sha256: str
    size: int = Field(description="Bytes.")
    recipe: ComponentRecipe


@router.get("/components", summary="List the components of models", responses=responses(422))
@takes_long
def components(
    context: Ctx, model: Annotated[list[str], Query(min_length=1, description="Once for every model.")]
) -> list[ComponentView]:
    """Which components files hold, in which precision, and which architectures take them."""
    return [
        ComponentView.model_validate(held_row(name, held))
        for name in model
        for held in components_in(context.catalog.path(name))
    ]


@router.post(
    "/components/extract", status_code=201, summary="Extract components", responses=responses(409, 422)
)
@takes_long
def extract(body: Extract, context: Ctx) -> Written:
    """Write components of a model alone, under the keys of a whole checkpoint."""
    path = context.catalog.path(body.model)
    return _write(
        context,
        body.output,
        [path],
        lambda files, out: files.extract(path, body.components, out, body.dtype),
    )


@router.post("/components/swap", status_code=201, summary="Swap a component", responses=responses(409, 422))
@takes_long
def swap(body: Swap, context: Ctx) -> Written:
    """Write a model with one component of another one."""
    base, source = context.catalog.path(body.model), context.catalog.path(body.source)
    return _write(
        context,
        body.output,
        [base],
        lambda files, out: files.swap(base, body.component, source, out, body.dtype),
    )


@router.post("/components/join", status_code=201, summary="Join components", responses=responses(409, 422))
@takes_long
def join(body: Join, context: Ctx) -> Written:
    """Write a checkpoint of components of several models."""
    named: dict[Component, list[str]] = {
        "unet": body.unet,
        "text_encoder": body.text_encoder,
        "vae": body.vae,
    }
    sources = {part: [context.catalog.path(name) for name in names] for part, names in named.items()}
    return _write(
        context, body.output, sources["unet"], lambda files, out: files.join(sources, out, body.dtype)
    )


@router.post("/components/convert", status_code=201, summary="Convert a model", responses=responses(409, 422))
@takes_long
def convert(body: Convert, context: Ctx) -> Written:
    """Write a model in another precision, or a `.ckpt` or diffusers folder as one file."""
    path = context.catalog.path(body.model)
    return _write(
        context, body.output, [path], lambda files, out: files.convert(path, out, body.dtype), growth=2
    )


@router.post("/components/prune", status_code=201, summary="Prune a model", responses=responses(409, 422))
@takes_long
def prune(body: Prune, context: Ctx) -> Written:
    """Write a model without EMA copies."""
    path = context.catalog.path(body.model)
    return _write(
        context, body.output, [path], lambda files, out: files.prune(path, out, body.ema, body.dtype)
    )


@router.post("/uniform", status_code=201, summary="Average models", responses=responses(409, 422))
@takes_long
def uniform(body: Uniform, context: Ctx) -> Written:
    """Write the mean of two or more models: no search, and what every search has to beat."""
    paths = [context.catalog.path(name) for name in body.models]
    return _write(
        context,
        body.output,
        paths[:1],
        lambda files, out: files.uniform(paths, body.components, out, body.dtype),
    )


def _write(
    context: Context,
    name: str,
    like: list[Path],
    write: Callable[[ComponentFiles, Path], ComponentRecipe],
    *,
    growth: int = 1,
) -> Written:
    """Write a file in the folder of outputs.

    like: a file of about its size, of which it takes at most `growth` times as much. Raises InputError, and
    Conflict where the name is taken or the disk is nearly full.
    """
    settings = context.settings
    out = settings.outputs_dir / f"{safe_name(name, 'output')}.safetensors"
    written: list[str] = []

    def check_free() -> None:
        if out.exists():
            raise Conflict(f"output: {out.name} exists already; give another name or move that file away")
        context.store.check_outputs([name])

    def sealed(sha256: str) -> None:
        # Asked again: writing takes long, and someone else may have taken the name.
        check_free()
        written.append(sha256)

    check_free()
    try:
        needed = growth * sum(size_of(path) for path in like[:1])
        check_room(out.parent, needed, settings.reserve_mb * 1_000_000)
    except DiskNearlyFull as error:
        raise Conflict(str(error)) from error
    out.parent.mkdir(parents=True, exist_ok=True)
    recipe = write(ComponentFiles(HashCache(settings.cache_dir), sealed), out)
    return Written(name=name, sha256=written[0], size=out.stat().st_size, recipe=recipe)
