"""Routes of what is done with a job's trials once they are there."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from service.afterwards.export import Exported, Exporter, ExportRequest
from service.afterwards.gc import Collected, CollectRequest, collect
from service.afterwards.rescore import Rescored, Rescorer, RescoreRequest
from service.afterwards.retally import Retally, RetallyRequest, retally
from service.api.context import Ctx
from service.api.problems import responses
from service.report.page import report_html
from service.threads import takes_long

router = APIRouter(prefix="/api/v1", tags=["afterwards"])


@router.post("/jobs/{job_id}/retally", summary="Judge a job's trials anew", responses=responses(404, 422))
@takes_long
def retally_job(job_id: str, body: RetallyRequest, context: Ctx) -> Retally:
    """Another tally, or other weights of the scorers, over the stored renders: which trial is best then?

    Nothing is rendered and nothing is changed. `POST …/export` writes the merge of the trial that you like
    better.
    """
    return retally(context.store, job_id, body)


@router.post(
    "/jobs/{job_id}/rescore",
    summary="Let a new scorer judge the stored images",
    responses=responses(404, 409, 422),
)
@takes_long
def rescore(job_id: str, body: RescoreRequest, context: Ctx) -> Rescored:
    """Add a scorer's numbers to the renders that lack them. The job's own scores stay; `retally` weighs them.

    It is answered when all is judged, which for many images takes minutes; the model is loaded in the
    service's own process, beside a worker's. Interrupted, it goes on where it was: ask again. For large jobs
    take `autombw rescore`, which shows how far it is.
    """
    return Rescorer(context.store, context.settings, job_id, body, local=False).run()


@router.post(
    "/jobs/{job_id}/export",
    status_code=201,
    summary="Write the merge of a trial",
    responses=responses(404, 409, 422),
)
@takes_long
def export(job_id: str, body: ExportRequest, context: Ctx) -> Exported:
    """Write the merge of any search trial that is done as a checkpoint with its recipe.

    It is answered when the file is written, which takes some seconds for files of several GB. Inputs that
    were collected are made again first. Without a trial and a name, the node's own file is made again.
    """
    return Exporter(context.store, context.settings, context.catalog, job_id).export(body)


@router.post("/gc", summary="Give up images and checkpoints", responses=responses(404, 422))
@takes_long
def collect_garbage(body: CollectRequest, context: Ctx) -> Collected:
    """Make room: images and intermediate checkpoints that are not to be kept, and files that nothing names.

    Rows and scores are kept. A dry run unless `dry_run` is false.
    """
    return collect(context.store, context.settings, body)


@router.get(
    "/jobs/{job_id}/report",
    summary="The report of a job",
    response_class=HTMLResponse,
    responses=responses(404, 422),
)
@takes_long
def report(
    job_id: str,
    context: Ctx,
    per_hour: Annotated[float | None, Query(ge=0, description="What an hour of computing costs.")] = None,
) -> HTMLResponse:
    """One HTML page that asks for nothing outside of itself: gains, images, weights, time.

    It tells of a running job what is known so far.
    """
    return HTMLResponse(report_html(context.store, context.settings, job_id, per_hour=per_hour))
