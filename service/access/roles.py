"""The three roles, each with all that the ones before it may do."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """viewer reads; submitter also submits, pauses, votes; admin also deletes, and makes tokens."""

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    ADMIN = "admin"

    def allows(self, needed: Role) -> bool:
        """Whether this role is enough where `needed` is asked for."""
        order = list(Role)
        return order.index(self) >= order.index(needed)
