"""What both clients share: where the service is, when a request is sent again, how a stream is read."""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass, field
from typing import Any

import httpx

from service.client.errors import ClientError, NoService, error_of, retry_after

URL_VARIABLE, TOKEN_VARIABLE = "AUTOMBW_URL", "AUTOMBW_TOKEN"
DEFAULT_URL = "http://127.0.0.1:8188"
# Submitting reads and hashes the models, which takes its time for large ones.
TIMEOUT = httpx.Timeout(600.0, connect=5.0)
STREAM_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
LONGEST_WAIT = 15.0
ALWAYS_SAFE = frozenset({"GET", "POST"})
"""What may be sent again although the first may have arrived: a POST has its key."""


def settings_of(url: str | None, token: str | None) -> dict[str, Any]:
    """What httpx is made with. Raises NoService on a URL that is none."""
    address = url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    secret = token or os.environ.get(TOKEN_VARIABLE)
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    parsed = httpx.URL("http://x") if not address else _parsed(address)
    return {"base_url": parsed, "headers": headers, "timeout": TIMEOUT, "follow_redirects": False}


def wait_before(attempt: int, retries: int, request: httpx.Request, outcome: object) -> float | None:
    """Seconds to wait before a request is sent again; None where it is not.

    outcome: the answer, or the error of httpx in its place.
    """
    if attempt >= retries:
        return None
    backoff = float(0.25 * 2**attempt * (1 + random.random() / 4))
    if isinstance(outcome, (httpx.ConnectError, httpx.ConnectTimeout)):
        return backoff
    if isinstance(outcome, httpx.TransportError):
        return backoff if request.method in ALWAYS_SAFE else None
    if isinstance(outcome, httpx.Response) and outcome.status_code in (409, 429, 502, 503, 504):
        asked = retry_after(outcome)
        if asked is None:
            return backoff if outcome.status_code >= 500 else None
        return asked if asked <= LONGEST_WAIT else None
    return None


def no_service(request: httpx.Request, error: httpx.HTTPError) -> ClientError:
    """What an error of the transport is to who called."""
    address = f"{request.url.scheme}://{request.url.netloc.decode()}"
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return NoService(f"no service at {address}; start one with `autombw serve` or give --url")
    return NoService(f"{request.method} {request.url}: {error or type(error).__name__}")


def check(response: httpx.Response) -> None:
    """Raise what an answer that is no success means."""
    if not response.is_success:
        raise error_of(response)


@dataclass
class EventLines:
    """Reads server-sent events line by line (WHATWG HTML, 9.2.6). last: id of the newest one."""

    last: int = 0
    _id: str = ""
    _data: list[str] = field(default_factory=list)

    def feed(self, line: str) -> Any:
        """The data of an event that this line ends, from JSON; None before that."""
        name, _, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
        elif name == "id":
            self._id = value.strip()
        elif not line and self._data:
            data, self._data = "\n".join(self._data), []
            self.last = int(self._id) if self._id.isdecimal() else self.last
            return json.loads(data)
        return None

    def dropped(self) -> None:
        """The connection ended in the middle of an event."""
        self._data.clear()


def _parsed(address: str) -> httpx.URL:
    try:
        parsed = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise NoService(f"{address!r} is not a URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise NoService(f"{address!r} is not a URL of a service; give one such as {DEFAULT_URL}")
    return parsed
