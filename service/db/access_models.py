"""The tables of who may do what: tokens, sessions, the audit, answers kept for repeated requests.

Portable as `service.db.models` is: times are seconds since 1970 (UTC).
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import ForeignKey, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from service.access.roles import Role
from service.db.models import Base, BigId, state_column


class Token(Base):
    """A token by its hash; `id` is the part of it that is no secret. A revoked one is kept for the audit."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    name: Mapped[str] = mapped_column(String(80))
    role: Mapped[Role] = mapped_column(state_column(Role))
    digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float] = mapped_column(default=time.time)
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]


class BrowserSession(Base):
    """A browser that logged in with a token; it ends with its token at the latest."""

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    token_id: Mapped[str] = mapped_column(ForeignKey("tokens.id"), index=True)
    digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float] = mapped_column(default=time.time)
    expires_at: Mapped[float] = mapped_column(index=True)


class AuditEntry(Base):
    """Something that somebody did, or was refused."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    at: Mapped[float] = mapped_column(default=time.time)
    actor: Mapped[str] = mapped_column(String(80))
    token_id: Mapped[str | None] = mapped_column(String(12), index=True)
    address: Mapped[str | None] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(300))
    status: Mapped[int | None]
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)


class KeptAnswer(Base):
    """A request with an idempotency key: its fingerprint, and its answer once there is one."""

    __tablename__ = "kept_answers"

    owner: Mapped[str] = mapped_column(String(80), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    status: Mapped[int | None]
    headers: Mapped[dict[str, Any] | None]
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[float] = mapped_column(default=time.time, index=True)
