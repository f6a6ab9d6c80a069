"""What a reverse proxy says of a request, believed of the proxies that the settings name and of no others."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from scoring.errors import InputError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
SAID_BY_PROXIES = re.compile(rb"x-forwarded-.*|forwarded|x-real-ip")
FROM_A_NETWORK = "autombw.from_a_network"
"""Set in the scope of a request that came through a proxy."""
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")


def networks(named: Sequence[str]) -> list[Network]:
    """Addresses and networks of proxies. Raises InputError on what is neither."""
    try:
        return [ipaddress.ip_network(each, strict=False) for each in named]
    except ValueError as error:
        raise InputError(
            f"trusted_proxies: {error}; give addresses or networks, such as 127.0.0.1 or 10.0.0.0/8"
        ) from error


class Proxies:
    """ASGI: puts a trusted proxy's client address, scheme, host and path prefix in the place of its own.

    X-Forwarded-For is read from its end: the first address that is no trusted proxy is the client, since
    what stands before it can be made up. Such headers of anybody else are taken away.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self._app = app
        self._trusted = networks(trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = Headers(raw=scope["headers"])
            forwarded = "x-forwarded-for" in headers or "forwarded" in headers
            scope[FROM_A_NETWORK] = forwarded
            if self._trusts(scope["client"][0] if scope.get("client") else ""):
                self._believe(scope, headers)
            else:
                scope["headers"] = [h for h in scope["headers"] if not SAID_BY_PROXIES.fullmatch(h[0])]
        await self._app(scope, receive, send)

    def _trusts(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._trusted)

    def _believe(self, scope: Scope, headers: Headers) -> None:
        hops = [hop.strip() for line in headers.getlist("x-forwarded-for") for hop in line.split(",")]
        client = next((hop for hop in reversed(hops) if not self._trusts(hop)), None)
        if client:
            scope["client"] = (client, 0)
        if headers.get("x-forwarded-proto") in ("http", "https"):
            secure = headers["x-forwarded-proto"] == "https"
            scope["scheme"] = ("ws" if scope["type"] == "websocket" else "http") + ("s" if secure else "")
        host = headers.get("x-forwarded-host")
        if host:
            kept = [header for header in scope["headers"] if header[0] != b"host"]
            scope["headers"] = [*kept, (b"host", host.encode("latin-1"))]
        prefix = headers.get("x-forwarded-prefix", "").rstrip("/")
        if _PREFIX.fullmatch(prefix):
            scope["root_path"] = prefix
            if not f"{scope['path']}/".startswith(f"{prefix}/"):
                scope["path"] = prefix + scope["path"]
