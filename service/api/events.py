"""The event stream of a job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.exc import OperationalError

from service.api.context import Ctx
from service.api.paging import MAX_ID
from service.api.problems import responses
from service.api.views import event_view
from service.db.states import JOB_FINAL

log = logging.getLogger(__name__)
POLL_SECONDS = 0.3
DATABASE_SECONDS = 2.0
router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])


def _existing(job_id: str, context: Ctx) -> str:
    # Asked before the stream begins: after its first byte a 404 can no longer be said.
    return context.store.job(job_id).id


@router.get(
    "/{job_id}/events",
    summary="Follow a job (server-sent events)",
    response_class=EventSourceResponse,
    responses=responses(404),
)
async def events(
    job_id: Annotated[str, Depends(_existing)],
    context: Ctx,
    last_event_id: Annotated[
        int,
        Header(ge=0, le=MAX_ID, description="Go on after this event; a browser sends it when it reconnects."),
    ] = 0,
) -> AsyncIterable[ServerSentEvent]:
    """Every change from the first one, then as they happen; ends when the job is done or cancelled.

    It also ends when the service stops; whoever asks again with `Last-Event-ID` misses nothing.
    """
    after = last_event_id
    while not context.stopping.is_set():
        try:
            # State before events: what comes between the two is sent, and the end is not missed.
            state = (await run_in_threadpool(context.store.job, job_id)).state
            found = await run_in_threadpool(context.store.events, job_id, after=after)
        except OperationalError as error:
            # The status is sent already, and a browser that reconnects to a 503 never comes back.
            log.warning("the stream of job %s waits for the database: %s", job_id, error.args[0])
            await asyncio.sleep(DATABASE_SECONDS)
            continue
        for event in found:
            after = event.id
            yield ServerSentEvent(data=event_view(event), event=event.kind, id=str(event.id))
        if not found and state in JOB_FINAL:
            return
        if not found:
            await asyncio.sleep(POLL_SECONDS)
