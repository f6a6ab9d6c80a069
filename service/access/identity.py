"""Who is asking: found by the guard, read by routes and by the page."""

from __future__ import annotations

import ipaddress
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Depends
from starlette.requests import HTTPConnection

from service.access.roles import Role

_KEY = "autombw.identity"


@dataclass(frozen=True)
class Identity:
    """Who is asking. token_id: none on loopback without tokens, where everybody is the owner."""

    name: str
    role: Role
    token_id: str | None
    via: Literal["local", "bearer", "cookie"]

    @property
    def owner(self) -> str:
        """What limits and idempotency keys are counted for."""
        return self.token_id or self.name


LOCAL = Identity("local", Role.ADMIN, None, "local")
"""Whoever reaches a service on loopback that asks for no token."""


def set_identity(scope: MutableMapping[str, Any], identity: Identity | None) -> None:
    """Note down who is asking."""
    scope[_KEY] = identity


def identity_in(scope: MutableMapping[str, Any]) -> Identity | None:
    """Who is asking; None where the route is open and nobody said."""
    found: Identity | None = scope.get(_KEY)
    return found


def identity_of(connection: HTTPConnection) -> Identity:
    """Who is asking on a route that is not open. The guard lets nobody else through."""
    found = identity_in(connection.scope)
    if found is None:
        raise RuntimeError(f"{connection.scope['path']} was reached past the guard")
    return found


Asker = Annotated[Identity, Depends(identity_of)]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address that is listened on, or is asked for by this name."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
