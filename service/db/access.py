"""Tokens, sessions, the audit and kept answers in the store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, exists, select
from sqlalchemy.exc import IntegrityError

from service.access.roles import Role
from service.access.secrets import SESSION, TOKEN, Secret, new_secret
from service.db.access_models import AuditEntry, BrowserSession, KeptAnswer, Token
from service.db.database import Database
from service.db.records import Record
from service.errors import Conflict, NotFound

ANSWERS_KEPT_SECONDS = 24 * 3600.0
ABANDONED_SECONDS = 3600.0
"""A request that was not answered for so long was lost with its process: the longest that is waited for."""


class TokenRecord(Record):
    """A token without its secret."""

    id: str
    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class AuditRecord(Record):
    """Something that somebody did, or was refused."""

    id: int
    at: datetime
    actor: str
    token_id: str | None
    address: str | None
    action: str
    status: int | None
    data: dict[str, Any]


@dataclass(frozen=True)
class Deed:
    """What is written into the audit. actor: a token's name, or who it was without one; status: of HTTP."""

    actor: str
    action: str
    token_id: str | None = None
    address: str | None = None
    status: int | None = None
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Kept:
    """A request that was seen before: by what it asked, and its answer unless it is still worked on."""

    fingerprint: str
    status: int | None
    headers: dict[str, str]
    body: bytes


class AccessStore(Database):
    """The storage contract of who may do what."""

    def create_token(
        self, name: str, role: Role, expires_at: float | None = None
    ) -> tuple[TokenRecord, Secret]:
        """A new token and its secret, which is never shown again. expires_at: seconds since 1970.

        Raises Conflict when a token of that name is in use.
        """
        secret = new_secret(TOKEN)
        with self._write() as session:
            namesakes = select(Token).where(Token.name == name, Token.revoked_at.is_(None))
            if any(_is_valid(token) for token in session.scalars(namesakes)):
                raise Conflict(f"a token named {name!r} is in use; revoke it or give another name")
            token = Token(id=secret.id, name=name, role=role, digest=secret.digest, expires_at=expires_at)
            session.add(token)
            session.flush()
            return TokenRecord.model_validate(token), secret

    def tokens(self) -> list[TokenRecord]:
        """All tokens, also expired and revoked ones, by age."""
        with self._read() as session:
            rows = session.scalars(select(Token).order_by(Token.created_at, Token.id))
            return [TokenRecord.model_validate(row) for row in rows]

    def has_tokens(self) -> bool:
        """Whether a token was ever made, revoked ones included."""
        with self._read() as session:
            return bool(session.scalar(select(exists(select(Token.id)))))

    def revoke_token(self, name: str) -> TokenRecord:
        """End a token, by its id or its name, and all its sessions. Raises NotFound, Conflict."""
        with self._write() as session:
            named = select(Token).where((Token.id == name) | (Token.name == name))
            found = list(session.scalars(named.order_by(Token.created_at.desc())))
            if not found:
                raise NotFound(f"there is no token {name!r}; `autombw token list` names them")
            token = next((each for each in found if each.revoked_at is None), None)
            if token is None:
                raise Conflict(f"token {name!r} is revoked already")
            token.revoked_at = time.time()
            session.execute(delete(BrowserSession).where(BrowserSession.token_id == token.id))
            return TokenRecord.model_validate(token)

    def token_of(self, secret: Secret) -> TokenRecord | None:
        """The token of a secret; None for a wrong, expired or revoked one."""
        with self._read() as session:
            token = session.get(Token, secret.id)
            valid = token is not None and secret.matches(token.digest) and _is_valid(token)
            return TokenRecord.model_validate(token) if valid else None

    def open_session(self, token_id: str, seconds: float) -> Secret:
        """Log a browser in with a token, for so long. Sessions that are over are forgotten."""
        secret, now = new_secret(SESSION), time.time()
        with self._write() as session:
            session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= now))
            session.add(
                BrowserSession(
                    id=secret.id, token_id=token_id, digest=secret.digest, expires_at=now + seconds
                )
            )
        return secret

    def token_of_session(self, secret: Secret) -> TokenRecord | None:
        """The token that a session logged in with; None when session or token is no longer valid."""
        with self._read() as session:
            found = session.get(BrowserSession, secret.id)
            if found is None or not secret.matches(found.digest) or found.expires_at <= time.time():
                return None
            token = session.get_one(Token, found.token_id)
            return TokenRecord.model_validate(token) if _is_valid(token) else None

    def close_session(self, session_id: str) -> None:
        """Log a browser out."""
        with self._write() as session:
            session.execute(delete(BrowserSession).where(BrowserSession.id == session_id))

    def audit(self, deed: Deed) -> None:
        """Write down what somebody did."""
        entry = AuditEntry(
            actor=deed.actor[:80],
            token_id=deed.token_id,
            address=deed.address and deed.address[:64],
            action=deed.action[:300],
            status=deed.status,
            data=dict(deed.data or {}),
        )
        with self._write() as session:
            session.add(entry)

    def audit_entries(self, *, before: int | None = None, limit: int = 100) -> list[AuditRecord]:
        """The audit, newest first, from the entry before number `before`."""
        wanted = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
        if before is not None:
            wanted = wanted.where(AuditEntry.id < before)
        with self._read() as session:
            return [AuditRecord.model_validate(row) for row in session.scalars(wanted)]

    def begin_request(self, owner: str, key: str, fingerprint: str) -> Kept | None:
        """Take an idempotency key of an owner: None where it is new, else the request that has it."""
        now = time.time()
        row = KeptAnswer(owner=owner, key=key, fingerprint=fingerprint, created_at=now)
        try:
            with self._write() as session:
                old = KeptAnswer.created_at < now - ANSWERS_KEPT_SECONDS
                lost = KeptAnswer.status.is_(None) & (KeptAnswer.created_at < now - ABANDONED_SECONDS)
                session.execute(delete(KeptAnswer).where(old | lost))
                found = session.get(KeptAnswer, (owner, key))
                if found is None:
                    session.add(row)
                return found and _kept(found)
        except IntegrityError:
            # On PostgreSQL another took it between the look and the insert.
            return self._kept_request(owner, key)

    def end_request(self, owner: str, key: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Keep the answer of a request for whoever repeats it."""
        with self._write() as session:
            row = session.get(KeptAnswer, (owner, key))
            if row is not None:
                row.status, row.headers, row.body = status, dict(headers), body

    def forget_request(self, owner: str, key: str) -> None:
        """Give a key back: its request came to nothing and may be tried again."""
        with self._write() as session:
            session.execute(delete(KeptAnswer).where(KeptAnswer.owner == owner, KeptAnswer.key == key))

    def _kept_request(self, owner: str, key: str) -> Kept | None:
        with self._read() as session:
            return _kept(session.get_one(KeptAnswer, (owner, key)))


def _is_valid(token: Token) -> bool:
    return token.revoked_at is None and (token.expires_at is None or token.expires_at > time.time())


def _kept(row: KeptAnswer) -> Kept:
    return Kept(row.fingerprint, row.status, row.headers or {}, row.body or b"")
