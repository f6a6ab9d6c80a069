"""What each route needs. What is not named here needs a viewer to read it and a submitter to change it."""

from __future__ import annotations

import re

from service.access.roles import Role

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
WEBSOCKET = "WEBSOCKET"

OPEN = frozenset({"/login", "/logout", "/healthz", "/readyz"})
"""Needs nothing. Health tells who shows no token only whether the service is well."""

_ANY = r"[A-Z]+"
_RULES: tuple[tuple[str, str, Role], ...] = (
    (_ANY, r"/api/v1/(tokens|audit)(/.*)?", Role.ADMIN),
    ("POST", r"/api/v1/gc", Role.ADMIN),
    ("DELETE", r"/.*", Role.ADMIN),
    # These compute an answer from what they are given, and change nothing.
    ("POST", r"/api/v1/jobs/(bracket|plan)", Role.VIEWER),
    ("POST", r"/api/v1/jobs/[^/]+/retally", Role.VIEWER),
    # The page's own connection where websockets do not get through; what it does is asked for by its buttons.
    (_ANY, r"/_nicegui_ws/.*", Role.VIEWER),
)
_COMPILED = tuple((re.compile(method), re.compile(path), role) for method, path, role in _RULES)


def needed(method: str, path: str) -> Role | None:
    """The role that a request needs; None where it needs none. method: of HTTP, or WEBSOCKET."""
    if path in OPEN:
        return None
    for methods, paths, role in _COMPILED:
        if methods.fullmatch(method) and paths.fullmatch(path):
            return role
    return Role.VIEWER if method in SAFE or method == WEBSOCKET else Role.SUBMITTER
