"""Routes of jobs and what they produce."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse

from service.api.context import Context, Ctx
from service.api.problems import responses
from service.api.views import JobView, TrialDetail, TrialView, trial_detail, trial_view
from service.db.records import NodeRecord
from service.db.states import TrialKind
from service.errors import NotFound
from service.jobs import JobRequest, validate_job
from service.progress import JobProgress, job_progress

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])
NodePosition = Annotated[int, Query(ge=0, description="Which node of the job; a pair has node 0 only.")]


@router.post("", status_code=201, summary="Submit a job", responses=responses(409, 422))
def submit(request: JobRequest, context: Ctx, response: Response) -> JobProgress:
    """Check a job against the models and everything else it names, and queue it.

    Nothing is queued unless all of it is right: the models are read, hashed and compared first, which
    takes some seconds for files of several GB.
    """
    node = validate_job(request, context.settings, context.catalog)
    job = context.store.create_job(request.name, request.model_dump(mode="json"), [node])
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    return job_progress(context.store, job.id)


@router.get("", summary="List jobs")
def jobs(
    context: Ctx,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> list[JobView]:
    """The newest first."""
    return [JobView(**job.model_dump()) for job in context.store.jobs(limit=limit, offset=offset)]


@router.get("/{job_id}", summary="One job and how far it is", responses=responses(404))
def job(job_id: str, context: Ctx) -> JobProgress:
    """State, trials, best score, gain over the baselines, pace and the time left."""
    return job_progress(context.store, job_id)


@router.get("/{job_id}/trials", summary="Trials of a job", responses=responses(404))
def trials(
    job_id: str,
    context: Ctx,
    *,
    node: NodePosition = 0,
    kind: TrialKind = TrialKind.SEARCH,
    after: Annotated[int, Query(ge=-1, description="Only trials of a higher number.")] = -1,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[TrialView]:
    """Trials of one kind by number: those of the search, or one of the held-out scores."""
    record = node_of(context, job_id, node)
    found = context.store.trials(record.id, kinds=[kind], after=after, limit=limit)
    return [trial_view(trial, node) for trial in found]


@router.get("/{job_id}/trials/{trial_id}", summary="One trial with its renders", responses=responses(404))
def trial(job_id: str, trial_id: int, context: Ctx) -> TrialDetail:
    """Each probe's image and the raw number of every scorer."""
    found = context.store.trial(trial_id)
    nodes = {node.id: node for node in context.store.nodes(job_id)}
    if found.node_id not in nodes:
        raise NotFound(
            f"trial {trial_id} is not one of job {job_id}; GET /api/v1/jobs/{job_id}/trials lists them"
        )
    return trial_detail(found, nodes[found.node_id].position, context.store.renders(trial_id))


@router.get("/{job_id}/best", summary="The best trial so far", responses=responses(404))
def best(job_id: str, context: Ctx, node: NodePosition = 0) -> TrialDetail:
    """The search trial of the highest score, with its block weights and images."""
    found = context.store.best_trial(node_of(context, job_id, node).id)
    if found is None:
        raise NotFound(f"job {job_id} has no successful trial yet; wait for the first")
    return trial_detail(found, node, context.store.renders(found.id))


@router.post("/{job_id}/cancel", summary="Cancel a job", responses=responses(404, 409))
def cancel(job_id: str, context: Ctx) -> JobProgress:
    """End a job for good; its worker stops after the image it is rendering. What is stored stays."""
    context.store.cancel_job(job_id)
    return job_progress(context.store, job_id)


@router.post("/{job_id}/retry", summary="Go on with a failed or paused job", responses=responses(404, 409))
def retry(job_id: str, context: Ctx) -> JobProgress:
    """Queue what failed or paused again. No finished trial is repeated; a failed export is only written."""
    context.store.retry_job(job_id)
    return job_progress(context.store, job_id)


@router.get(
    "/{job_id}/artefact",
    summary="Download the merged checkpoint",
    response_class=FileResponse,
    responses=responses(404),
)
def artefact(job_id: str, context: Ctx, node: NodePosition = 0) -> FileResponse:
    """The .safetensors file, once the job is done."""
    made = context.store.checkpoint(node_of(context, job_id, node).id)
    if made is None or not Path(made.path).is_file():
        raise NotFound(
            f"job {job_id} has no merged checkpoint yet, or its file is gone; GET the job for its state"
        )
    return FileResponse(made.path, filename=f"{made.name}.safetensors", media_type="application/octet-stream")


@router.get("/{job_id}/recipe", summary="The recipe of the merged checkpoint", responses=responses(404))
def recipe(job_id: str, context: Ctx, node: NodePosition = 0) -> dict[str, Any]:
    """Parents with their hashes, every block weight by name, and the scores."""
    made = context.store.checkpoint(node_of(context, job_id, node).id)
    if made is None:
        raise NotFound(f"job {job_id} has no merged checkpoint yet; GET the job for its state")
    return made.recipe


def node_of(context: Context, job_id: str, position: int) -> NodeRecord:
    """The node of a job at a position. Raises NotFound."""
    nodes = context.store.nodes(job_id)
    if position >= len(nodes):
        raise NotFound(f"job {job_id} has no node {position}; its nodes are 0 to {len(nodes) - 1}")
    return nodes[position]
