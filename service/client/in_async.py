"""The client for asyncio."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import httpx

from service.client import calls
from service.client.calls import Call
from service.client.connection import (
    STREAM_TIMEOUT,
    EventLines,
    check,
    no_service,
    settings_of,
    wait_before,
)
from service.client.download import Download

if TYPE_CHECKING:
    from service.api.views import EventView

P = ParamSpec("P")
T = TypeVar("T")


def _one(make: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """The method that makes a call and returns its answer."""

    @functools.wraps(make)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.call(make(*args, **kwargs))

    return method


def _many(make: Callable[P, Call[list[T]]]) -> Callable[Concatenate[AsyncClient, P], AsyncIterator[T]]:
    """The method that makes a call and yields what is on all its pages, fetched as they are needed."""

    @functools.wraps(make)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        call = make(*args, **kwargs)
        request = call.built(self.http)
        while True:
            response = await self._send(request)
            for each in call.read(response):
                yield each
            following = calls.next_page(response)
            if following is None:
                return
            request = self.http.build_request("GET", following)

    return method


class AsyncClient:
    """`Client`, with methods to be awaited, and lists to go through with `async for`."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        retries: int = 4,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.http = httpx.AsyncClient(**settings_of(url, token), transport=transport)
        self.retries = retries

    # The same calls in both clients, but each of a type of its own.
    # pylint: disable=duplicate-code
    health = _one(calls.health)
    whoami = _one(calls.whoami)
    submit = _one(calls.submit)
    plan = _one(calls.plan)
    bracket = _one(calls.bracket)
    jobs = _many(calls.jobs)
    job = _one(calls.job)
    trials = _many(calls.trials)
    trial = _one(calls.trial)
    best = _one(calls.best)
    renders = _many(calls.renders)
    log = _many(calls.log)
    recipe = _one(calls.recipe)
    pause = _one(calls.pause)
    resume = _one(calls.resume)
    cancel = _one(calls.cancel)
    retry = _one(calls.retry)
    extend = _one(calls.extend)
    add_leaves = _one(calls.add_leaves)
    set_priority = _one(calls.set_priority)
    clone = _one(calls.clone)
    retally = _one(calls.retally)
    rescore = _one(calls.rescore)
    export = _one(calls.export)
    gc = _one(calls.gc)
    models = _one(calls.models)
    workers = _one(calls.workers)
    model = _one(calls.model)
    tokens = _one(calls.tokens)
    make_token = _one(calls.make_token)
    revoke_token = _one(calls.revoke_token)
    audit = _many(calls.audit)
    # pylint: enable=duplicate-code

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give every connection back."""
        await self.http.aclose()

    async def call(self, call: Call[T]) -> T:
        """Make a call and read its answer."""
        return call.read(await self._send(call.built(self.http)))

    async def etag(self, job_id: str) -> str:
        """The present ETag of a job, for `if_match`."""
        return str((await self._send(calls.job(job_id).built(self.http))).headers["ETag"])

    async def events(self, job_id: str, *, after: int = 0) -> AsyncIterator[EventView]:
        """Every event of a job from the one after `after`, then as they happen, to the job's end.

        A stream that breaks off is gone on with where it broke, without a gap; `retries` times in a row.
        """
        from service.api.views import EventView
        from service.db.states import JOB_FINAL

        lines, attempt = EventLines(after), 0
        while True:
            request = self._events_request(job_id, lines.last)
            try:
                async for line in self._lines(request):
                    told = lines.feed(line)
                    if told is not None:
                        attempt = 0
                        yield EventView.model_validate(told)
                if (await self.job(job_id)).state in JOB_FINAL:
                    return
            except httpx.TransportError as error:
                lines.dropped()
                await self._wait(attempt, request, error)
                attempt += 1

    async def image(self, sha256: str) -> bytes:
        """A rendered image, as PNG."""
        return (await self._send(self.http.build_request("GET", calls.image_path(sha256)))).content

    async def download(self, job_id: str, file: Path, *, node: str | None = None) -> Path:
        """Write a merged checkpoint to `file`, which appears when it is whole and its hash is right."""
        query = {} if node is None else {"node": node}
        request = self.http.build_request("GET", calls.artefact_path(job_id), params=query)
        with Download(file) as download:
            response = await self._send(request, stream=True)
            try:
                async for chunk in response.aiter_bytes():
                    download.write(chunk)
            except httpx.TransportError as error:
                raise no_service(request, error) from error
            finally:
                await response.aclose()
            return download.finish(response.headers.get("ETag", ""))

    def _events_request(self, job_id: str, after: int) -> httpx.Request:
        headers = {"Last-Event-ID": str(after), "Accept": "text/event-stream"}
        return self.http.build_request(
            "GET", calls.events_path(job_id), headers=headers, timeout=STREAM_TIMEOUT
        )

    async def _lines(self, request: httpx.Request) -> AsyncIterator[str]:
        response = await self._send(request, stream=True)
        try:
            async for line in response.aiter_lines():
                yield line
        finally:
            await response.aclose()

    async def _send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        """The successful answer to a request that is sent until there is one."""
        attempt = 0
        while True:
            try:
                response = await self.http.send(request, stream=stream)
            except httpx.HTTPError as error:
                await self._wait(attempt, request, error)
            else:
                wait = wait_before(attempt, self.retries, request, response)
                if response.is_success:
                    return response
                await response.aread()
                await response.aclose()
                if wait is None:
                    check(response)
                await asyncio.sleep(wait or 0.0)
            attempt += 1

    async def _wait(self, attempt: int, request: httpx.Request, error: httpx.HTTPError) -> None:
        """Wait before the next attempt. Raises NoService where there is none."""
        wait = wait_before(attempt, self.retries, request, error)
        if wait is None:
            raise no_service(request, error) from error
        await asyncio.sleep(wait)
