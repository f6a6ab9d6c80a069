"""Routes of jobs and what they produce."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, HTTPException, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse

from service.access.identity import Asker, Identity
from service.access.roles import Role
from service.api.conditional import matches
from service.api.context import Ctx, ToChange, job_etag
from service.api.kept import Keeps
from service.api.news import Until
from service.api.paging import MAX_ID, link_next
from service.api.problems import responses
from service.api.views import (
    AddLeaves,
    BracketRow,
    EventView,
    Extend,
    JobRender,
    JobView,
    Priority,
    TrialDetail,
    TrialView,
    bracket_rows,
    event_view,
    job_render,
    trial_detail,
    trial_view,
)
from service.changes import add_leaves, clone_job
from service.db.states import TRIAL_ENDED, TrialKind
from service.errors import NotFound
from service.explaining import JobPlan, explain_job
from service.jobs import JobRequest
from service.nodes import head_of
from service.planning import lay_bracket, leaf_names, validate_job
from service.progress import JobProgress, job_progress
from service.recent_progress import recent_progress
from service.settings import Settings
from service.threads import reads, takes_long

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])
NodeName = Annotated[
    str | None, Query(description="Which node, by name or position; the final one if not given.")
]


@router.post("", status_code=201, summary="Submit a job", responses=responses(409, 422))
@takes_long
def submit(request: JobRequest, context: Ctx, asker: Asker, response: Response) -> JobProgress:
    """Check a job against the models and everything else it names, and queue it.

    Nothing is queued unless all of it is right: the models are read, hashed and compared first, which
    takes some seconds for files of several GB.
    """
    new = validate_job(request, context.settings, context.catalog)
    job = context.store.create_job(replace(new, **submitter(asker, context.settings)))
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    return job_progress(context.store, job.id)


@router.post("/plan", summary="Tell what a job would do", responses=responses(409, 422))
@takes_long
def plan(request: JobRequest, context: Ctx) -> JobPlan:
    """The job step by step: files put together, merges and picks, images, trials, files, disk.

    All is checked as when it is submitted, which takes as long; nothing is queued.
    """
    return explain_job(request, context.settings, context.catalog, context.store)


@router.post("/bracket", summary="Preview a job's bracket", responses=responses(422))
def bracket(request: JobRequest) -> list[BracketRow]:
    """The tree that a job would get, as its table O = A + B. No model is read and nothing is queued."""
    return bracket_rows(lay_bracket(request, leaf_names(request)))


@router.get("", summary="List jobs", responses=responses(404))
@reads
def jobs(
    request: Request,
    response: Response,
    context: Ctx,
    keeps: Keeps,
    *,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(description="Only jobs that come after this one in the list.")] = None,
) -> list[JobView]:
    """The newest first."""
    keeps.until(Until.MOVE)
    found = context.store.jobs(limit=limit, after=after)
    link_next(request, response, {"after": found[-1].id} if len(found) == limit else None)
    return [JobView(**job.model_dump()) for job in found]


@router.get(
    "/{job_id}", summary="One job and how far it is", response_model=JobProgress, responses=responses(404)
)
@reads
def job(
    job_id: str,
    context: Ctx,
    keeps: Keeps,
    _known: Annotated[
        str | None, Header(alias="If-None-Match", description="ETag of the job as it is known.")
    ] = None,
) -> Response:
    """State, trials, best score, gain over the baselines, pace and the time left."""
    keeps.until(Until.EVENT, job_id)
    known = recent_progress(context.store, job_id)
    headers = {"ETag": job_etag(known.event_id), "Cache-Control": "no-cache"}
    return Response(known.json, media_type="application/json", headers=headers)


@router.get("/{job_id}/log", summary="What happened in a job", responses=responses(404))
@reads
def log(
    job_id: str,
    request: Request,
    response: Response,
    context: Ctx,
    keeps: Keeps,
    *,
    after: Annotated[int, Query(ge=0, le=MAX_ID, description="Only events after this one.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[EventView]:
    """The events of a job in pages, the oldest first; `…/events` streams them as they happen."""
    found = context.store.events(job_id, after=after, limit=limit)
    keeps.until(Until.NEVER if len(found) == limit else Until.EVENT, job_id)
    link_next(request, response, {"after": found[-1].id} if len(found) == limit else None)
    return [event_view(event) for event in found]


@router.get("/{job_id}/renders", summary="Renders of a job", responses=responses(404))
@reads
def renders(
    job_id: str,
    request: Request,
    response: Response,
    context: Ctx,
    keeps: Keeps,
    *,
    node: NodeName = None,
    after: Annotated[int, Query(ge=0, le=MAX_ID, description="Only renders of a higher id.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[JobRender]:
    """Every image of a node with its scores, in the order in which they were rendered."""
    found = context.store.renders_of_node(head_of(context.store, job_id, node).id, after=after, limit=limit)
    keeps.until(Until.CHANGE if len(found) == limit else Until.EVENT, job_id)
    link_next(request, response, {"after": found[-1].id} if len(found) == limit else None)
    return [job_render(render) for render in found]


@router.get("/{job_id}/trials", summary="Trials of a job", responses=responses(404))
@reads
def trials(
    job_id: str,
    request: Request,
    response: Response,
    context: Ctx,
    keeps: Keeps,
    *,
    node: NodeName = None,
    kind: TrialKind = TrialKind.SEARCH,
    after: Annotated[int, Query(ge=-1, le=MAX_ID, description="Only trials of a higher number.")] = -1,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[TrialView]:
    """Trials of one kind by number: those of the search, or one of the held-out scores."""
    record = head_of(context.store, job_id, node)
    found = context.store.trials(record.id, kinds=[kind], after=after, limit=limit)
    # Whole, with no number left out that may come yet.
    is_whole = len(found) == limit and found[-1].number == after + limit
    is_settled = is_whole and all(trial.state in TRIAL_ENDED for trial in found)
    keeps.until(Until.CHANGE if is_settled else Until.EVENT, job_id)
    link_next(request, response, {"after": found[-1].number} if len(found) == limit else None)
    return [trial_view(trial, record) for trial in found]


@router.get("/{job_id}/trials/{trial_id}", summary="One trial with its renders", responses=responses(404))
@reads
def trial(
    job_id: str, trial_id: Annotated[int, PathParameter(ge=0, le=MAX_ID)], context: Ctx, keeps: Keeps
) -> TrialDetail:
    """Each probe's image and the raw number of every scorer."""
    found = context.store.trial(trial_id)
    keeps.until(Until.CHANGE if found.state in TRIAL_ENDED else Until.EVENT, job_id)
    nodes = {node.id: node for node in context.store.node_heads(job_id)}
    if found.node_id not in nodes:
        raise NotFound(
            f"trial {trial_id} is not one of job {job_id}; GET /api/v1/jobs/{job_id}/trials lists them"
        )
    return trial_detail(found, nodes[found.node_id], context.store.renders(trial_id))


@router.get("/{job_id}/best", summary="The best trial so far", responses=responses(404))
@reads
def best(job_id: str, context: Ctx, keeps: Keeps, node: NodeName = None) -> TrialDetail:
    """The search trial of the highest score, with its block weights and images."""
    keeps.until(Until.EVENT, job_id)
    record = head_of(context.store, job_id, node)
    found = context.store.best_trial(record.id)
    if found is None:
        raise NotFound(f"node {record.name} of job {job_id} has no successful trial yet; wait for the first")
    return trial_detail(found, record, context.store.renders(found.id))


@router.post("/{job_id}/cancel", summary="Cancel a job", responses=responses(404, 409, 412))
def cancel(job_id: str, context: Ctx, store: ToChange) -> JobProgress:
    """End a job for good; its worker stops after the image it is rendering. What is stored stays."""
    store.cancel_job(job_id)
    return job_progress(context.store, job_id)


@router.post("/{job_id}/pause", summary="Pause a job", responses=responses(404, 409, 412))
def pause(job_id: str, context: Ctx, store: ToChange) -> JobProgress:
    """Stop working on it until it is resumed; the images being rendered are dropped, all else is kept."""
    store.pause_job(job_id)
    return job_progress(context.store, job_id)


@router.post("/{job_id}/resume", summary="Resume a paused job", responses=responses(404, 409, 412))
def resume(job_id: str, context: Ctx, store: ToChange) -> JobProgress:
    """Go on with what was paused, by a person or by a node that stopped itself."""
    store.resume_job(job_id)
    return job_progress(context.store, job_id)


@router.post(
    "/{job_id}/retry", summary="Go on with a failed or paused job", responses=responses(404, 409, 412)
)
def retry(
    job_id: str,
    context: Ctx,
    store: ToChange,
    node: Annotated[str | None, Query(description="One node only, by its name.")] = None,
) -> JobProgress:
    """Queue what failed or paused again. No finished trial is repeated; a failed export is only written."""
    store.retry_job(job_id, node=node)
    return job_progress(context.store, job_id)


@router.post(
    "/{job_id}/nodes/{node}/extend",
    summary="Search a finished node further",
    responses=responses(404, 409, 412, 422),
)
def extend(job_id: str, node: str, body: Extend, context: Ctx, store: ToChange) -> JobProgress:
    """More trials for a node that is done; its file is made anew. Nodes that wait for it wait again."""
    store.extend_node(job_id, node, body.trials)
    return job_progress(context.store, job_id)


@router.post(
    "/{job_id}/leaves",
    summary="Add models to a running job",
    responses=responses(404, 409, 412, 422),
)
@takes_long
def leaves(job_id: str, body: AddLeaves, context: Ctx, store: ToChange) -> JobProgress:
    """Add leaves where the bracket allows it: no merge that has begun may lose its place."""
    add_leaves(store, context.settings, context.catalog, job_id, body.leaves)
    return job_progress(context.store, job_id)


@router.post(
    "/{job_id}/clone", status_code=201, summary="Clone a job with changes", responses=responses(404, 409, 422)
)
@takes_long
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
    asker: Asker,
    response: Response,
) -> JobProgress:
    """A new job that asks for what this one asked for, with changes."""
    by = submitter(asker, context.settings)
    job = clone_job(context.store, context.settings, context.catalog, job_id, changes, **by)
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    return job_progress(context.store, job.id)


@router.post("/{job_id}/priority", summary="Change a job's priority", responses=responses(404, 412, 422))
def priority(job_id: str, body: Priority, context: Ctx, store: ToChange) -> JobProgress:
    """Nodes of the job with the highest priority are worked on first."""
    store.set_priority(job_id, body.priority)
    return job_progress(context.store, job_id)


@router.get(
    "/{job_id}/artefact",
    summary="Download the merged checkpoint",
    response_class=FileResponse,
    responses=responses(404),
)
def artefact(
    job_id: str,
    context: Ctx,
    node: NodeName = None,
    if_none_match: Annotated[str | None, Header(description="ETag of the file that is there.")] = None,
) -> FileResponse:
    """The .safetensors file, once the job is done."""
    made = context.store.checkpoint(head_of(context.store, job_id, node).id)
    if made is None or not Path(made.path).is_file():
        raise NotFound(
            f"job {job_id} has no merged checkpoint yet, or its file is gone; GET the job for its state"
        )
    headers = {"ETag": f'"{made.sha256}"'}
    if matches(if_none_match, headers["ETag"]):
        raise HTTPException(304, headers=headers)
    return FileResponse(
        made.path,
        headers=headers,
        filename=f"{made.name}.safetensors",
        media_type="application/octet-stream",
    )


@router.get("/{job_id}/recipe", summary="The recipe of the merged checkpoint", responses=responses(404))
def recipe(job_id: str, context: Ctx, node: NodeName = None) -> dict[str, Any]:
    """Parents with their hashes, every block weight by name, and the scores."""
    made = context.store.checkpoint(head_of(context.store, job_id, node).id)
    if made is None:
        raise NotFound(f"job {job_id} has no merged checkpoint yet; GET the job for its state")
    return made.recipe


def submitter(asker: Identity, settings: Settings) -> dict[str, Any]:
    """What a new job is told of who submits it: whose it is, and how many such jobs there may be."""
    return {"submitted_by": asker.token_id, "limit": 0 if asker.role is Role.ADMIN else settings.queue_limit}
