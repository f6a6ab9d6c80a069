"""What the service refuses, each kind with its HTTP meaning."""

from __future__ import annotations


class NotFound(LookupError):
    """The named job, trial or file does not exist (HTTP 404)."""


class Conflict(RuntimeError):
    """The request is well formed but does not fit the present state (HTTP 409)."""


class Stale(RuntimeError):
    """What was to be changed is no longer what the request says it saw (HTTP 412)."""


class TooMany(RuntimeError):
    """The token's owner has as much as it may have at once (HTTP 429)."""


class LeaseLost(RuntimeError):
    """A write came from a worker that no longer holds the node: it must drop the node, not retry."""


class Interrupted(RuntimeError):
    """The worker was told to stop; the node goes back to the queue as it is."""
