"""Routes of the gallery and of the workers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from service.api.context import Ctx
from service.api.kept import Keeps
from service.api.news import Until
from service.db.gallery import Place, Wanted
from service.db.records import GalleryRender, WorkerRecord
from service.db.states import TrialKind
from service.threads import reads

router = APIRouter(prefix="/api/v1")


class GalleryPage(BaseModel):
    """Renders of the gallery, the newest trials first."""

    renders: list[GalleryRender]
    next: str | None = Field(description="Give it as `after` for the page behind; null at the end.")
    total: int | None = Field(description="How many are wanted in all, on the first page alone.")


@router.get("/renders", tags=["jobs"], summary="Renders of all jobs")
@reads
def renders(
    context: Ctx,
    keeps: Keeps,
    *,
    job: str | None = None,
    node: str | None = None,
    kind: Annotated[list[TrialKind] | None, Query(description="Kinds of trials; all if not given.")] = None,
    trial: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="Number of the trial.")] = None,
    probe: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
    after: Annotated[
        str | None, Query(pattern=r"^\d{1,18}-\d{1,9}$", description="`next` of a page.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 120,
) -> GalleryPage:
    """Renders whose images are kept, in pages that cost the same however far one scrolls."""
    wanted = Wanted(job, node, kind or tuple(TrialKind), trial, probe)
    place = Place(*map(int, after.split("-"))) if after else None
    found = context.store.gallery(wanted, after=place, limit=limit)
    if place is None:
        # Those behind it begin elsewhere after every render: hardly one is asked for twice.
        keeps.until(Until.EVENT, job)
    last = found[-1] if len(found) == limit else None
    return GalleryPage(
        renders=found,
        next=f"{last.trial_id}-{last.probe}" if last else None,
        total=None if after else context.store.gallery_size(wanted),
    )


@router.get("/workers", tags=["service"], summary="Workers that live")
def workers(context: Ctx) -> list[WorkerRecord]:
    """Every worker that showed a sign of life in the last minute: device, memory, and what it works on."""
    return context.store.workers()
