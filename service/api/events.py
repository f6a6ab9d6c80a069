"""The event stream of a job."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header
from fastapi.responses import StreamingResponse

from service.api.context import Ctx
from service.api.paging import MAX_ID
from service.api.problems import responses

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])


class EventStream(StreamingResponse):
    """Server-sent events, several at once; FastAPI's own would write each down for every stream."""

    media_type = "text/event-stream"


def _newest(job_id: str, context: Ctx) -> int:
    # Asked before the stream begins: after its first byte a 404 can no longer be said.
    return context.store.last_event_id(job_id)


@router.get(
    "/{job_id}/events",
    summary="Follow a job (server-sent events)",
    response_class=EventStream,
    responses=responses(404),
)
async def events(
    job_id: str,
    newest: Annotated[int, Depends(_newest)],
    context: Ctx,
    last_event_id: Annotated[
        int,
        Header(ge=0, le=MAX_ID, description="Go on after this event; a browser sends it when it reconnects."),
    ] = 0,
) -> StreamingResponse:
    """Every change from the first one, then as they happen; ends when the job is done or cancelled.

    It also ends when the service stops; whoever asks again with `Last-Event-ID` misses nothing.
    """
    news = context.feeds.follow(job_id, after=last_event_id, newest=newest)
    # nginx would keep what it gets until a buffer is full.
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return EventStream(news, headers=headers)
