"""Routes of jobs and what they produce."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from fastapi.responses import FileResponse

from service.api.context import Context, Ctx
from service.api.problems import responses
from service.api.views import (
    AddLeaves,
    BracketRow,
    Extend,
    JobView,
    Priority,
    TrialDetail,
    TrialView,
    bracket_rows,
    trial_detail,
    trial_view,
)
from service.changes import add_leaves, clone_job
from service.db.records import NodeRecord
from service.db.states import TrialKind
from service.db.tree import final_node
from service.errors import NotFound
from service.explaining import JobPlan, explain_job
from service.jobs import JobRequest
from service.nodes import nodes_of
from service.planning import lay_bracket, leaf_names, validate_job
from service.progress import JobProgress, job_progress

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])
NodeName = Annotated[
    str | None, Query(description="Which node, by name or position; the final one if not given.")
]


@router.post("", status_code=201, summary="Submit a job", responses=responses(409, 422))
def submit(request: JobRequest, context: Ctx, response: Response) -> JobProgress:
    """Check a job against the models and everything else it names, and queue it.

    Nothing is queued unless all of it is right: the models are read, hashed and compared first, which
    takes some seconds for files of several GB.
    """
    job = context.store.create_job(validate_job(request, context.settings, context.catalog))
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    return job_progress(context.store, job.id)


@router.post("/plan", summary="Tell what a job would do", responses=responses(409, 422))
def plan(request: JobRequest, context: Ctx) -> JobPlan:
    """The job step by step: files put together, merges and picks, images, trials, files, disk.

    All is checked as when it is submitted, which takes as long; nothing is queued.
    """
    return explain_job(request, context.settings, context.catalog, context.store)


@router.post("/bracket", summary="Preview a job's bracket", responses=responses(422))
def bracket(request: JobRequest) -> list[BracketRow]:
    """The tree that a job would get, as its table O = A + B. No model is read and nothing is queued."""
    return bracket_rows(lay_bracket(request, leaf_names(request)))


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
    node: NodeName = None,
    kind: TrialKind = TrialKind.SEARCH,
    after: Annotated[int, Query(ge=-1, description="Only trials of a higher number.")] = -1,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[TrialView]:
    """Trials of one kind by number: those of the search, or one of the held-out scores."""
    record = node_of(context, job_id, node)
    found = context.store.trials(record.id, kinds=[kind], after=after, limit=limit)
    return [trial_view(trial, record) for trial in found]


@router.get("/{job_id}/trials/{trial_id}", summary="One trial with its renders", responses=responses(404))
def trial(job_id: str, trial_id: int, context: Ctx) -> TrialDetail:
    """Each probe's image and the raw number of every scorer."""
    found = context.store.trial(trial_id)
    nodes = {node.id: node for node in context.store.nodes(job_id)}
    if found.node_id not in nodes:
        raise NotFound(
            f"trial {trial_id} is not one of job {job_id}; GET /api/v1/jobs/{job_id}/trials lists them"
        )
    return trial_detail(found, nodes[found.node_id], context.store.renders(trial_id))


@router.get("/{job_id}/best", summary="The best trial so far", responses=responses(404))
def best(job_id: str, context: Ctx, node: NodeName = None) -> TrialDetail:
    """The search trial of the highest score, with its block weights and images."""
    record = node_of(context, job_id, node)
    found = context.store.best_trial(record.id)
    if found is None:
        raise NotFound(f"node {record.name} of job {job_id} has no successful trial yet; wait for the first")
    return trial_detail(found, record, context.store.renders(found.id))


@router.post("/{job_id}/cancel", summary="Cancel a job", responses=responses(404, 409))
def cancel(job_id: str, context: Ctx) -> JobProgress:
    """End a job for good; its worker stops after the image it is rendering. What is stored stays."""
    context.store.cancel_job(job_id)
    return job_progress(context.store, job_id)


@router.post("/{job_id}/pause", summary="Pause a job", responses=responses(404, 409))
def pause(job_id: str, context: Ctx) -> JobProgress:
    """Stop working on it until it is resumed; the images being rendered are dropped, all else is kept."""
    context.store.pause_job(job_id)
    return job_progress(context.store, job_id)


@router.post("/{job_id}/resume", summary="Resume a paused job", responses=responses(404, 409))
def resume(job_id: str, context: Ctx) -> JobProgress:
    """Go on with what was paused, by a person or by a node that stopped itself."""
    context.store.resume_job(job_id)
    return job_progress(context.store, job_id)


@router.post("/{job_id}/retry", summary="Go on with a failed or paused job", responses=responses(404, 409))
def retry(
    job_id: str,
    context: Ctx,
    node: Annotated[str | None, Query(description="One node only, by its name.")] = None,
) -> JobProgress:
    """Queue what failed or paused again. No finished trial is repeated; a failed export is only written."""
    context.store.retry_job(job_id, node=node)
    return job_progress(context.store, job_id)


@router.post(
    "/{job_id}/nodes/{node}/extend",
    summary="Search a finished node further",
    responses=responses(404, 409, 422),
)
def extend(job_id: str, node: str, body: Extend, context: Ctx) -> JobProgress:
    """More trials for a node that is done; its file is made anew. Nodes that wait for it wait again."""
    context.store.extend_node(job_id, node, body.trials)
    return job_progress(context.store, job_id)


@router.post("/{job_id}/leaves", summary="Add models to a running job", responses=responses(404, 409, 422))
def leaves(job_id: str, body: AddLeaves, context: Ctx) -> JobProgress:
    """Add leaves where the bracket allows it: no merge that has begun may lose its place."""
    add_leaves(context.store, context.settings, context.catalog, job_id, body.leaves)
    return job_progress(context.store, job_id)


@router.post(
    "/{job_id}/clone", status_code=201, summary="Clone a job with changes", responses=responses(404, 409, 422)
)
def clone(
    job_id: str,
    changes: Annotated[
        dict[str, Any],
        Body(
            description="JSON merge patch (RFC 7396) of the request: what is given replaces, null removes.",
            examples=[{"search": {"trials": 120}, "output": "again"}],
        ),
    ],
    context: Ctx,
    response: Response,
) -> JobProgress:
    """A new job that asks for what this one asked for, with changes."""
    job = clone_job(context.store, context.settings, context.catalog, job_id, changes)
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    return job_progress(context.store, job.id)


@router.post("/{job_id}/priority", summary="Change a job's priority", responses=responses(404, 422))
def priority(job_id: str, body: Priority, context: Ctx) -> JobProgress:
    """Nodes of the job with the highest priority are worked on first."""
    context.store.set_priority(job_id, body.priority)
    return job_progress(context.store, job_id)


@router.get(
    "/{job_id}/artefact",
    summary="Download the merged checkpoint",
    response_class=FileResponse,
    responses=responses(404),
)
def artefact(job_id: str, context: Ctx, node: NodeName = None) -> FileResponse:
    """The .safetensors file, once the job is done."""
    made = context.store.checkpoint(node_of(context, job_id, node).id)
    if made is None or not Path(made.path).is_file():
        raise NotFound(
            f"job {job_id} has no merged checkpoint yet, or its file is gone; GET the job for its state"
        )
    return FileResponse(made.path, filename=f"{made.name}.safetensors", media_type="application/octet-stream")


@router.get("/{job_id}/recipe", summary="The recipe of the merged checkpoint", responses=responses(404))
def recipe(job_id: str, context: Ctx, node: NodeName = None) -> dict[str, Any]:
    """Parents with their hashes, every block weight by name, and the scores."""
    made = context.store.checkpoint(node_of(context, job_id, node).id)
    if made is None:
        raise NotFound(f"job {job_id} has no merged checkpoint yet; GET the job for its state")
    return made.recipe


def node_of(context: Context, job_id: str, node: str | None) -> NodeRecord:
    """The node of a job by name or position, the final one for None. Raises NotFound."""
    if node is None:
        return final_node(context.store.nodes(job_id))
    return nodes_of(context.store, job_id, node)[0]
