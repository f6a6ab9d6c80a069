"""Routes of the models folder, of images, and of health."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from optimizer.checkpoints import Inspection, size_of
from scoring.errors import InputError
from service.access.identity import identity_in
from service.api.context import Ctx, own_version
from service.api.kept import Keeps
from service.api.news import Until
from service.api.pictures import Png, picture
from service.api.problems import responses
from service.api.views import Health, ModelView, worker_view
from service.errors import NotFound
from service.images import image_path
from service.threads import takes_long

router = APIRouter()


@router.get("/api/v1/models", tags=["models"], summary="List models", responses=responses(422))
@takes_long
def models(context: Ctx) -> list[ModelView]:
    """The checkpoints of the models folder, by the names that jobs use."""
    catalog = context.catalog
    return [ModelView(name=name, size=size_of(catalog.path(name))) for name in catalog.names()]


@router.get(
    "/api/v1/models/{name}", tags=["models"], summary="Inspect a model", responses=responses(404, 422)
)
@takes_long
def model(name: str, context: Ctx) -> Inspection:
    """Architecture, prediction type, dtypes, keys, NaN and Inf per block, hashes, embedded recipe."""
    try:
        context.catalog.path(name)
    except InputError as error:
        raise NotFound(str(error)) from error
    return context.catalog.inspect(name)


@router.get(
    "/api/v1/images/{sha256}.png",
    tags=["jobs"],
    summary="A rendered image",
    response_class=Png,
    responses=responses(404),
)
def image(
    sha256: str,
    context: Ctx,
    keeps: Keeps,
    if_none_match: Annotated[str | None, Header(description="ETag of the picture that is there.")] = None,
) -> Response:
    """A render by its hash, as the trials list it."""
    keeps.until(Until.CHANGE)
    return picture(sha256, if_none_match, partial(image_path, context.settings.renders_dir, sha256))


@router.get("/healthz", tags=["service"], summary="Health")
def healthz(request: Request, context: Ctx) -> Health:
    """200 while the service and its database answer; who shows no needed token learns no more."""
    owners = sorted(context.store.owners())
    if identity_in(request.scope) is None:
        return Health()
    return Health(version=own_version(), workers=[worker_view(owner) for owner in owners])
