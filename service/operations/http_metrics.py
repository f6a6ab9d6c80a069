"""How long requests take, by route: pure ASGI, in front of everything."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMetrics:
    """ASGI middleware. Time counts until an answer begins: a stream lasts as long as somebody watches.

    A route is known by its template, never by the path that was asked for: a stranger could ask for any
    number of these.
    """

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry) -> None:
        self._app = app
        self._seconds = Histogram(
            "autombw_http_seconds",
            "Seconds until an answer begins.",
            ("method", "route"),
            buckets=BUCKETS,
            registry=registry,
        )
        self._answers = Counter(
            "autombw_http_answers", "Answers by status.", ("method", "route", "status"), registry=registry
        )
        self._open = Gauge(
            "autombw_http_open", "Requests and websockets that are open now.", ("kind",), registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._tell(scope, message["status"], time.perf_counter() - started)
            await send(message)

        with self._open.labels(scope["type"]).track_inprogress():
            await self._app(scope, receive, timed)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = getattr(scope.get("route"), "path", "") or "other"
        self._seconds.labels(method, route).observe(seconds)
        self._answers.labels(method, route, str(status)).inc()
