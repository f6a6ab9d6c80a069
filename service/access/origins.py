"""Whether a browser asks on behalf of another site: forged requests, and names that point here."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from service.access.identity import is_loopback


def is_known_host(headers: Headers, allowed: Collection[str]) -> bool:
    """Whether the Host header names this machine or one of `allowed`.

    A page of another site can let its own name point to 127.0.0.1 (DNS rebinding) and then counts as of
    the same origin as the service; but it cannot change the name that the browser sends.
    """
    name = host_name(headers.get("host", ""))
    return is_loopback(name) or name in {each.lower() for each in allowed}


def is_foreign(headers: Headers, scheme: str, *, browser: bool) -> bool:
    """Whether another site's page may have made the browser send this.

    browser: it is known to come from one (it shows a cookie), so saying nothing of its origin is suspect.
    """
    origin = headers.get("origin")
    if origin is not None:
        secure = scheme in ("https", "wss")
        own = f"{'https' if secure else 'http'}://{headers.get('host', '')}"
        return origin.lower() != own.lower()
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    return browser


def host_name(host: str) -> str:
    """The name in a Host header, without its port, in small letters."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
