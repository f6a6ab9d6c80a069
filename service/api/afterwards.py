"""Routes of what is done with a job's trials once they are there."""

from __future__ import annotations

from fastapi import APIRouter

from service.afterwards.retally import Retally, RetallyRequest, retally
from service.api.context import Ctx
from service.api.problems import responses

router = APIRouter(prefix="/api/v1", tags=["afterwards"])


@router.post("/jobs/{job_id}/retally", summary="Judge a job's trials anew", responses=responses(404, 422))
def retally_job(job_id: str, body: RetallyRequest, context: Ctx) -> Retally:
    """Another tally, or other weights of the scorers, over the stored renders: which trial is best then?

    Nothing is rendered and nothing is changed. `POST …/export` writes the merge of the trial that you like
    better.
    """
    return retally(context.store, job_id, body)
