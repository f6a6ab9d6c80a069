"""The HTTP side of the commands."""

from __future__ import annotations

from types import TracebackType
from typing import Annotated, Any

import httpx
import typer

from service.cli.output import fail

DEFAULT_SERVER = "http://127.0.0.1:8188"
Server = Annotated[str, typer.Option(envvar="AUTOMBW_SERVER", help="Where `autombw serve` listens.")]


class Client:
    """A connection to a service. Problems it reports end the command with their words."""

    def __init__(self, server: str) -> None:
        self._server = server
        try:
            # Submitting reads and hashes two models, which takes its time for large ones.
            self._http = httpx.Client(base_url=server, timeout=httpx.Timeout(600.0, connect=5.0))
        except httpx.InvalidURL as error:
            fail(f"--server {server!r} is not a URL: {error}", 2)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        return self._request("GET", path, None)

    def post(self, path: str, body: Any = None) -> Any:
        """The JSON that a POST answers."""
        return self._request("POST", path, body)

    def _request(self, method: str, path: str, body: Any) -> Any:
        try:
            response = self._http.request(method, path, json=body)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            fail(f"no service at {self._server}; start one with `autombw serve` or give --server", 1)
        except (httpx.HTTPError, httpx.UnsupportedProtocol) as error:
            fail(f"{method} {self._server}{path}: {error or type(error).__name__}", 1)
        if response.is_success:
            return response.json()
        fail(_detail(response), 2 if response.is_client_error else 1)
        return None


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{response.request.url} answered {response.status_code}; is that an autombw service?"
