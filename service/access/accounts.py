"""Who a token or a cookie belongs to, remembered for a second."""

from __future__ import annotations

import time
from typing import Literal

from sqlalchemy.exc import OperationalError

from service.access.identity import Identity
from service.access.secrets import SESSION, TOKEN, Secret, read_secret
from service.db.access import AccessStore

REMEMBERED_SECONDS = 1.0
REMEMBERED = 10_000
"""A revoked token is refused at most this much later, in every process."""


class Accounts:
    """The tokens of a store. always: ask for one even where none was ever made."""

    def __init__(self, store: AccessStore, *, always: bool) -> None:
        self._store = store
        self._asks = always
        self._asked_at = -REMEMBERED_SECONDS
        self._known: dict[tuple[str, str], tuple[float, Identity]] = {}

    def asks(self) -> bool:
        """Whether a token is needed: once one was made, it is needed for good.

        So revoking the last one does not open the service again. Raises OperationalError when it is not
        known because the database does not answer.
        """
        if not self._asks and time.monotonic() - self._asked_at > REMEMBERED_SECONDS:
            self._asks = self._store.has_tokens()
            self._asked_at = time.monotonic()
        return self._asks

    def known_to_ask(self) -> bool:
        """Whether it is known without asking the database that a token is needed."""
        return self._asks

    def remembered(self, kind: str, text: str) -> Identity | None:
        """Who shows this token or cookie, if that was found within the last second; the database is left
        alone."""
        secret = read_secret(kind, text)
        return None if secret is None else self._remembered((kind, secret.digest))

    def of_token(self, text: str) -> Identity | None:
        """Who shows this token; None for a wrong, expired or revoked one."""
        return self._identity(TOKEN, text)

    def of_cookie(self, text: str) -> Identity | None:
        """Who has this session; None for one that is over."""
        return self._identity(SESSION, text)

    def holds(self, kind: str, text: str) -> bool:
        """Whether a token or session that was valid still is; a database that is away ends nothing."""
        try:
            return self._identity(kind, text) is not None
        except OperationalError:
            return True

    def log_in(self, identity: Identity, seconds: float) -> Secret:
        """A session for the owner of a token."""
        if identity.token_id is None:
            raise ValueError("only a token opens a session")
        return self._store.open_session(identity.token_id, seconds)

    def log_out(self, text: str) -> None:
        """End a session."""
        secret = read_secret(SESSION, text)
        if secret is not None and self.of_cookie(text) is not None:
            self._store.close_session(secret.id)
            self._known.pop((SESSION, secret.digest), None)

    def _identity(self, kind: str, text: str) -> Identity | None:
        secret = read_secret(kind, text)
        if secret is None:
            return None
        key = (kind, secret.digest)
        if (known := self._remembered(key)) is not None:
            return known
        token = (self._store.token_of if kind == TOKEN else self._store.token_of_session)(secret)
        if token is None:
            self._known.pop(key, None)
            return None
        via: Literal["bearer", "cookie"] = "bearer" if kind == TOKEN else "cookie"
        found = Identity(token.name, token.role, token.id, via)
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[key] = (time.monotonic(), found)
        return found

    def _remembered(self, key: tuple[str, str]) -> Identity | None:
        at, known = self._known.get(key, (0.0, None))
        return known if known is not None and time.monotonic() - at < REMEMBERED_SECONDS else None
