"""Routes for those who run the service: metrics, and whether it is ready."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from service.access.identity import identity_in
from service.operations.readiness import Missing

router = APIRouter(tags=["service"])


class Ready(BaseModel):
    """Whether the service can do its work, and if not, what is missing."""

    ready: bool
    missing: list[Missing] = Field(description="Empty when it is ready.")


@router.get("/readyz", summary="Readiness", responses={503: {"model": Ready, "description": "Not ready."}})
def readyz(request: Request, response: Response) -> Ready:
    """200 when jobs are worked on; else 503 with all that is missing. Who shows no needed token learns only
    the kinds of what is missing."""
    missing = request.app.state.readiness.missing()
    if identity_in(request.scope) is None:
        missing = [Missing(what=each.what, detail="log in to read more") for each in missing]
    response.status_code = 503 if missing else 200
    response.headers["Cache-Control"] = "no-store"
    return Ready(ready=not missing, missing=missing)


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
def metrics(request: Request) -> Response:
    """Jobs, trials, renders, queue, workers, memory, failures and HTTP times, in Prometheus' text format."""
    return Response(generate_latest(request.app.state.metrics), media_type=CONTENT_TYPE_LATEST)
